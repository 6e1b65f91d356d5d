// Secrets and volumes by the client of npm: `node npm_vault.mjs IMAGE`.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const { Sandbox, Secret, SecretNotFoundError, Volume } = require("e2b");
const image = process.argv[2];

const made = await Secret.create("npm", "sk-first", { metadata: { of: "npm" } });
assert.deepEqual([made.name, made.version, made.metadata], ["npm", 1, { of: "npm" }]);
assert.equal((await Secret.update("npm", "sk-second")).version, 2);
assert.deepEqual((await Secret.list().nextItems()).map((each) => each.name), ["npm"]);
assert.equal(await Secret.destroy("npm"), true);
await assert.rejects(Secret.getInfo("npm"), SecretNotFoundError);

const volume = await Volume.create("npm");
const box = await Sandbox.create(image, { volumeMounts: { "/data": volume } });
await assert.rejects(Volume.destroy(volume.volumeId), /mounted in sandbox/);
await box.kill();
assert.deepEqual((await Volume.list()).map((each) => each.name), ["npm"]);
assert.equal(await Volume.destroy(volume.volumeId), true);
assert.equal(await Volume.destroy(volume.volumeId), false);
