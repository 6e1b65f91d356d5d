// What the clients of npm do: `node npm_client.mjs FOLDER [code]`, where FOLDER is the sandbox's to use.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const { Sandbox, CommandExitError, NotFoundError, SandboxNotFoundError, Template } = require("e2b");
const folder = process.argv[2];

async function commands(box) {
  let output = "";
  const done = await box.commands.run("echo $FROM; echo err >&2", { onStdout: (text) => { output += text; } });
  assert.deepEqual([done.stdout, done.stderr, done.exitCode, output], ["npm\n", "err\n", 0, "npm\n"]);
  await assert.rejects(box.commands.run("exit 3"), (error) => error instanceof CommandExitError && error.exitCode === 3);
  const reader = await box.commands.run("read a; echo got $a", { background: true, stdin: true });
  await box.commands.sendStdin(reader.pid, "one\n");
  assert.equal((await reader.wait()).stdout, "got one\n");
  const sleeper = await box.commands.run("exec sleep 600", { background: true });
  assert.deepEqual((await box.commands.list()).map((each) => each.pid), [sleeper.pid]);
  const again = await box.commands.connect(sleeper.pid);
  assert.equal(await again.kill(), true);
}

async function files(box) {
  const seen = [];
  await box.files.makeDir(`${folder}/watched`);
  const watch = await box.files.watchDir(`${folder}/watched`, (event) => seen.push(event.name));
  await box.files.write(`${folder}/watched/a`, "text ä");
  while (!seen.includes("a")) await new Promise((resolve) => setTimeout(resolve, 20));
  await watch.stop();
  assert.equal(await box.files.read(`${folder}/watched/a`), "text ä");
  await box.files.write([{ path: `${folder}/b`, data: "1" }, { path: `${folder}/c`, data: new Uint8Array([0, 255]).buffer }]);
  assert.deepEqual([...(await box.files.read(`${folder}/c`, { format: "bytes" }))], [0, 255]);
  assert.deepEqual((await box.files.list(folder)).map((each) => each.name).sort(), ["b", "c", "watched"]);
  await box.files.rename(`${folder}/b`, `${folder}/d`);
  assert.equal(await box.files.exists(`${folder}/b`), false);
  await box.files.remove(`${folder}/d`);
  await assert.rejects(box.files.read(`${folder}/none`), NotFoundError);
  const sent = await fetch(await box.uploadUrl(`${folder}/signed`), { method: "POST", body: form("signed") });
  assert.equal(sent.status, 200);
  assert.equal(await (await fetch(await box.downloadUrl(`${folder}/signed`))).text(), "signed");
}

function form(text) {
  const made = new FormData();
  made.append("file", new Blob([text]), "x");
  return made;
}

async function terminal(box) {
  let output = "";
  const decoder = new TextDecoder();
  const pty = await box.pty.create({ rows: 24, cols: 80, onData: (data) => { output += decoder.decode(data); } });
  await box.pty.sendInput(pty.pid, new TextEncoder().encode("echo in a $((40 + 2)); exit\n"));
  await pty.wait();
  assert.ok(output.includes("in a 42"));
}

async function control(box) {
  assert.equal(await box.isRunning(), true);
  assert.deepEqual((await box.getInfo()).metadata, { of: "npm" });
  await box.setTimeout(120_000);
  const pages = Sandbox.list({ query: { metadata: { of: "npm" } }, limit: 10 });
  assert.deepEqual((await pages.nextItems()).map((each) => each.sandboxId), [box.sandboxId]);
  assert.equal((await box.getMetrics()).length, 1);
  await box.pause();
  assert.equal((await box.getInfo()).state, "paused");
  await (await Sandbox.connect(box.sandboxId)).commands.run("true");
  const snapshot = await box.createSnapshot();
  const copy = await Sandbox.create(snapshot.snapshotId);
  assert.equal((await copy.commands.run("echo copy")).stdout, "copy\n");
  await copy.kill();
  assert.equal(await box.kill(), true);
  await assert.rejects(box.getInfo(), SandboxNotFoundError);
}

async function template() {
  const steps = Template().fromTemplate("base").setWorkdir(folder).runCmd("echo built > built");
  await Template.build(steps, "npm");
  const box = await Sandbox.create("npm");
  assert.equal((await box.commands.run(`cat ${folder}/built`)).stdout, "built\n");
  await box.kill();
}

async function code() {
  const { Sandbox: Interpreter } = require("@e2b/code-interpreter");
  const box = await Interpreter.create();
  await box.runCode("x = 6");
  let output = "";
  const done = await box.runCode("print('out'); x * 7", { onStdout: (message) => { output += message.line; } });
  assert.deepEqual([done.text, output], ["42", "out\n"]);
  assert.equal((await box.runCode("1 / 0")).error.name, "ZeroDivisionError");
  const context = await box.createCodeContext();
  assert.equal((await box.runCode("x", { context })).error.name, "NameError");
  await box.kill();
}

const box = await Sandbox.create({ metadata: { of: "npm" }, envs: { FROM: "npm" }, timeoutMs: 60_000 });
await commands(box);
await files(box);
await terminal(box);
await control(box);
await template();
if (process.argv[3] === "code") await code();
