/* What the buttons and the shortcuts do with a sandbox. */

import { ask, confirmed } from "./dialogs.js";
import { announce, complain } from "./dom.js";
import { title } from "./state.js";

export class Actions {
  #api;
  #state;
  #last = new Map();

  constructor(api, state) {
    this.#api = api;
    this.#state = state;
  }

  /** Run an action of a sandbox after those before it, and show its error. */
  #run(id, words, action) {
    const run = async () => {
      complain("");
      try {
        return await action();
      } catch (error) {
        complain(`${words}: ${error.message}`);
        return undefined;
      }
    };
    const done = (this.#last.get(id) || Promise.resolve()).then(run);
    this.#last.set(id, done);
    done.then(() => this.#last.get(id) === done && this.#last.delete(id));
    return done;
  }

  #path(id, rest = "") {
    return `/sandboxes/${encodeURIComponent(id)}${rest}`;
  }

  #name(id) {
    return title(id, this.#state.sandboxes.get(id));
  }

  /** Seconds that a copy, or one that is resumed, lives: as long as this one was meant to. */
  #time(id) {
    const item = this.#state.sandboxes.get(id);
    if (!item || item.endAt === null) return 300;
    return Math.max(60, Math.round((Date.parse(item.endAt) - Date.parse(item.startedAt)) / 1000));
  }

  async pauseOrResume(id) {
    await this.#run(id, `Cannot pause or resume ${this.#name(id)}`, () => {
      const paused = this.#state.sandboxes.get(id)?.state === "paused";
      const body = paused ? { timeout: this.#time(id) } : {};
      return this.#api.call("POST", this.#path(id, paused ? "/resume" : "/pause"), body);
    });
  }

  async fork(id) {
    await this.#run(id, `Cannot fork ${this.#name(id)}`, async () => {
      const made = await this.#api.call("POST", this.#path(id, "/fork"), { count: 1, timeout: this.#time(id) });
      const failed = made.find((each) => each.error);
      if (failed) throw new Error(failed.error.message);
    });
  }

  async snapshot(id) {
    const answer = await ask(`Snapshot of ${this.#name(id)}`, [["name", "Name (may be empty)", ""]], "Save");
    if (!answer) return;
    await this.#run(id, `Cannot save ${this.#name(id)}`, async () => {
      const made = await this.#api.call("POST", this.#path(id, "/snapshots"), answer.name ? { name: answer.name } : {});
      announce(`Snapshot ${made.snapshotID.slice(0, 12)} saved`);
    });
  }

  async kill(id) {
    const name = this.#name(id);
    const text = "Its processes end, and its files and memory are lost. Its forks and snapshots stay.";
    if (!(await confirmed(`Kill ${name}?`, text, "Kill"))) return;
    await this.#run(id, `Cannot kill ${name}`, () => this.#api.call("DELETE", this.#path(id)));
  }

  async extend(id) {
    const answer = await ask(`Time limit of ${this.#name(id)}`, [["timeout", "Seconds from now", "3600", "number"]], "Set");
    if (!answer) return;
    const body = { timeout: Number(answer.timeout) };
    await this.#run(id, "Cannot set the time limit", () => this.#api.call("POST", this.#path(id, "/timeout"), body));
  }

  /** Returns the id of the new sandbox. */
  async create(template = "base") {
    const fields = [
      ["template", "Template, snapshot or image", template],
      ["name", "Name (may be empty)", ""],
      ["timeout", "Time limit in seconds", "3600", "number"],
    ];
    const answer = await ask("New sandbox", fields, "Start");
    if (!answer) return undefined;
    const body = { templateID: answer.template, timeout: Number(answer.timeout) };
    if (answer.name) body.metadata = { name: answer.name };
    announce("Starting a sandbox");
    return this.#run("", "Cannot start a sandbox", async () => {
      const made = await this.#api.call("POST", "/v2/sandboxes", body);
      return made.sandboxID;
    });
  }
}
