/* SPDX-License-Identifier: Apache-2.0 */
/* Generated from the .proto files of the runtime: python -m pyvmm_sentry.generate --write */
#ifndef SENTRY_MESSAGES_H
#define SENTRY_MESSAGES_H

enum { Request_service = 1, Request_method = 2, Request_payload = 3, Request_timeout_nano = 4, Request_metadata = 5, };
enum { Response_status = 1, Response_payload = 2, };
enum { Status_code = 1, Status_message = 2, Status_details = 3, };
enum { HealthCheckResponse_status = 1, };
enum { VersionCheckResponse_grpc_version = 1, VersionCheckResponse_agent_version = 2, };
enum { CreateSandboxRequest_hostname = 1, CreateSandboxRequest_dns = 2, CreateSandboxRequest_storages = 3,
	CreateSandboxRequest_sandbox_pidns = 4, CreateSandboxRequest_sandbox_id = 5,
	CreateSandboxRequest_guest_hook_path = 6, CreateSandboxRequest_kernel_modules = 7, };
enum { CreateContainerRequest_container_id = 1, CreateContainerRequest_exec_id = 2,
	CreateContainerRequest_string_user = 3, CreateContainerRequest_devices = 4, CreateContainerRequest_storages = 5,
	CreateContainerRequest_OCI = 6, CreateContainerRequest_sandbox_pidns = 7, CreateContainerRequest_shared_mounts = 8,
	CreateContainerRequest_stdin_port = 9, CreateContainerRequest_stdout_port = 10,
	CreateContainerRequest_stderr_port = 11, CreateContainerRequest_config = 100, CreateContainerRequest_mark = 101, };
enum { ExecProcessRequest_container_id = 1, ExecProcessRequest_exec_id = 2, ExecProcessRequest_string_user = 3,
	ExecProcessRequest_process = 4, ExecProcessRequest_stdin_port = 5, ExecProcessRequest_stdout_port = 6,
	ExecProcessRequest_stderr_port = 7, ExecProcessRequest_config = 100, ExecProcessRequest_window = 101, };
enum { SignalProcessRequest_container_id = 1, SignalProcessRequest_exec_id = 2, SignalProcessRequest_signal = 3, };
enum { WaitProcessResponse_status = 1, };
enum { StatsContainerResponse_cgroup_stats = 1, StatsContainerResponse_network_stats = 2, };
enum { CgroupStats_cpu_stats = 1, CgroupStats_memory_stats = 2, CgroupStats_pids_stats = 3,
	CgroupStats_blkio_stats = 4, CgroupStats_hugetlb_stats = 5, };
enum { CpuStats_cpu_usage = 1, CpuStats_throttling_data = 2, };
enum { CpuUsage_total_usage = 1, CpuUsage_percpu_usage = 2, CpuUsage_usage_in_kernelmode = 3,
	CpuUsage_usage_in_usermode = 4, };
enum { MemoryStats_cache = 1, MemoryStats_usage = 2, MemoryStats_swap_usage = 3, MemoryStats_kernel_usage = 4,
	MemoryStats_use_hierarchy = 5, MemoryStats_stats = 6, };
enum { MemoryData_usage = 1, MemoryData_max_usage = 2, MemoryData_failcnt = 3, MemoryData_limit = 4, };
enum { PidsStats_current = 1, PidsStats_limit = 2, };
enum { ListProcessesRequest_container_id = 1, ListProcessesRequest_format = 2, ListProcessesRequest_args = 3, };
enum { ListProcessesResponse_process_list = 1, };
enum { WriteStreamRequest_container_id = 1, WriteStreamRequest_exec_id = 2, WriteStreamRequest_data = 3, };
enum { WriteStreamResponse_len = 1, };
enum { ReadStreamRequest_container_id = 1, ReadStreamRequest_exec_id = 2, ReadStreamRequest_len = 3, };
enum { ReadStreamResponse_data = 1, };
enum { TtyWinResizeRequest_container_id = 1, TtyWinResizeRequest_exec_id = 2, TtyWinResizeRequest_row = 3,
	TtyWinResizeRequest_column = 4, };
enum { Storage_driver = 1, Storage_driver_options = 2, Storage_source = 3, Storage_fstype = 4, Storage_options = 5,
	Storage_mount_point = 6, Storage_fs_group = 7, };
enum { GuestDetailsResponse_mem_block_size_bytes = 1, GuestDetailsResponse_agent_details = 2,
	GuestDetailsResponse_support_mem_hotplug_probe = 3, };
enum { AgentDetails_version = 1, AgentDetails_init_daemon = 2, AgentDetails_device_handlers = 3,
	AgentDetails_storage_handlers = 4, AgentDetails_supports_seccomp = 5, AgentDetails_extra_features = 6, };
enum { OOMEvent_container_id = 1, };
enum { Spec_Version = 1, Spec_Process = 2, Spec_Root = 3, Spec_Hostname = 4, Spec_Mounts = 5, Spec_Hooks = 6,
	Spec_Annotations = 7, Spec_Linux = 8, Spec_Solaris = 9, Spec_Windows = 10, };
enum { Process_Terminal = 1, Process_ConsoleSize = 2, Process_User = 3, Process_Args = 4, Process_Env = 5,
	Process_Cwd = 6, Process_Capabilities = 7, Process_Rlimits = 8, Process_NoNewPrivileges = 9,
	Process_ApparmorProfile = 10, Process_OOMScoreAdj = 11, Process_SelinuxLabel = 12, };
enum { Box_Height = 1, Box_Width = 2, };
enum { User_UID = 1, User_GID = 2, User_AdditionalGids = 3, User_Username = 4, User_Umask = 100, };
enum { LinuxCapabilities_Bounding = 1, LinuxCapabilities_Effective = 2, LinuxCapabilities_Inheritable = 3,
	LinuxCapabilities_Permitted = 4, LinuxCapabilities_Ambient = 5, };
enum { POSIXRlimit_Type = 1, POSIXRlimit_Hard = 2, POSIXRlimit_Soft = 3, };
enum { Mount_destination = 1, Mount_source = 2, Mount_type = 3, Mount_options = 4, };
enum { Root_Path = 1, Root_Readonly = 2, };
enum { Linux_UIDMappings = 1, Linux_GIDMappings = 2, Linux_Sysctl = 3, Linux_Resources = 4, Linux_CgroupsPath = 5,
	Linux_Namespaces = 6, Linux_Devices = 7, Linux_Seccomp = 8, Linux_RootfsPropagation = 9, Linux_MaskedPaths = 10,
	Linux_ReadonlyPaths = 11, Linux_MountLabel = 12, Linux_IntelRdt = 13, };
enum { LinuxDevice_Path = 1, LinuxDevice_Type = 2, LinuxDevice_Major = 3, LinuxDevice_Minor = 4,
	LinuxDevice_FileMode = 5, LinuxDevice_UID = 6, LinuxDevice_GID = 7, };
enum { LinuxResources_Devices = 1, LinuxResources_Memory = 2, LinuxResources_CPU = 3, LinuxResources_Pids = 4,
	LinuxResources_BlockIO = 5, LinuxResources_HugepageLimits = 6, LinuxResources_Network = 7, };
enum { LinuxMemory_Limit = 1, LinuxMemory_Reservation = 2, LinuxMemory_Swap = 3, LinuxMemory_Kernel = 4,
	LinuxMemory_KernelTCP = 5, LinuxMemory_Swappiness = 6, LinuxMemory_DisableOOMKiller = 7, LinuxMemory_High = 100, };
enum { LinuxCPU_Shares = 1, LinuxCPU_Quota = 2, LinuxCPU_Period = 3, LinuxCPU_RealtimeRuntime = 4,
	LinuxCPU_RealtimePeriod = 5, LinuxCPU_Cpus = 6, LinuxCPU_Mems = 7, };
enum { LinuxPids_Limit = 1, };
enum { UpdateContainerRequest_container_id = 1, UpdateContainerRequest_resources = 2,
	UpdateContainerRequest_config = 100, };
enum { ThrottlingData_periods = 1, ThrottlingData_throttled_periods = 2, ThrottlingData_throttled_time = 3, };
enum { LinuxSeccomp_DefaultAction = 1, LinuxSeccomp_Architectures = 2, LinuxSeccomp_Flags = 3,
	LinuxSeccomp_Syscalls = 4, LinuxSeccomp_defaulterrnoret = 100, };
enum { LinuxSeccompArg_Index = 1, LinuxSeccompArg_Value = 2, LinuxSeccompArg_ValueTwo = 3, LinuxSeccompArg_Op = 4, };
enum { LinuxSyscall_Names = 1, LinuxSyscall_Action = 2, LinuxSyscall_errnoret = 3, LinuxSyscall_Args = 4, };
enum { LinuxNamespace_Type = 1, LinuxNamespace_Path = 2, };
enum { LinuxIDMapping_HostID = 1, LinuxIDMapping_ContainerID = 2, LinuxIDMapping_Size = 3, };
enum { SetPolicyRequest_policy = 1, SetPolicyRequest_name = 100, };
enum { UpdateInterfaceRequest_interface = 1, };
enum { UpdateRoutesRequest_routes = 1, };
enum { Routes_Routes = 1, };
enum { Interface_device = 1, Interface_name = 2, Interface_IPAddresses = 3, Interface_mtu = 4, Interface_hwAddr = 5,
	Interface_devicePath = 6, Interface_type = 7, Interface_raw_flags = 8, };
enum { IPAddress_family = 1, IPAddress_address = 2, IPAddress_mask = 3, };
enum { Route_dest = 1, Route_gateway = 2, Route_device = 3, Route_source = 4, Route_scope = 5, Route_family = 6,
	Route_flags = 7, Route_metric = 100, };

#endif
