# A library of a hundred files and 60,000 lines, and a program in C++: by cmake with ninja, and by cmake with make -j.
exec 2>&1
mkdir include include/arch
echo '#define LWIP_RAND() 4' >include/arch/cc.h
cat >include/lwipopts.h <<'END'
#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_SOCKET 0
#define LWIP_NETCONN 0
#define LWIP_IPV6 1
#define LWIP_DNS 1
END
cat >CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.10)
project(program C CXX)
file(GLOB SOURCES $LWIP/src/core/*.c $LWIP/src/core/ipv4/*.c $LWIP/src/core/ipv6/*.c $LWIP/src/netif/ethernet.c)
add_library(lwip STATIC \${SOURCES})
target_include_directories(lwip PUBLIC $LWIP/src/include include)
add_executable(program main.cc)
target_link_libraries(program lwip)
enable_testing()
add_test(NAME run COMMAND program)
END
cat >main.cc <<'END'
#include <filesystem>
#include <iostream>
#include <map>
#include <regex>
#include <stdexcept>
#include <thread>
#include <vector>
extern "C" {
#include "lwip/init.h"
#include "lwip/ip_addr.h"
unsigned sys_now(void) { return 0; }
}
int main()
{
	std::map<std::string, int> squares;
	std::vector<std::thread> threads;
	int each[4];
	for (int i = 0; i < 4; i++) threads.emplace_back([&each, i] { each[i] = i * i; });
	for (auto &thread : threads) thread.join();
	for (int i : each) squares[std::to_string(i)] = i;
	for (auto &[name, square] : squares) std::cout << name << ' ' << square << '\n';
	try { throw std::runtime_error("caught"); } catch (std::exception &e) { std::cout << e.what() << '\n'; }
	lwip_init();
	ip_addr_t address;
	std::cout << ipaddr_aton("fe80::1", &address) << ipaddr_ntoa(&address) << '\n';
	std::cout << std::regex_match("aab", std::regex("a+b")) << std::filesystem::exists("/proc/self") << std::endl;
}
END
cmake -G Ninja -B ninja . | grep -v '(.*s)$'
ninja -C ninja -j4 >log || cat log
ninja/program
touch -d 2001-01-01 main.cc
ninja -C ninja
cmake -B make . >log
make -C make -j4 >log || cat log
make/program
(cd make && ctest) | grep -v sec
cmp ninja/liblwip.a make/liblwip.a && ar t make/liblwip.a | wc -l
objdump -d make/program | wc -l
strip -o stripped make/program && nm stripped
gcc -O2 -flto -x c -o lto - <<<'int main() { return 4; }' && ./lto
echo "status $?"
