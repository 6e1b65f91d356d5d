/* What the server has told of this key's sandboxes, and who wants to know of changes. */

import { seconds } from "./units.js";

export class State extends EventTarget {
  sandboxes = new Map();
  snapshots = new Map();
  memory = {};
  #offset = 0;

  /** Follow the server until the signal, again after each loss of the connection. */
  async follow(api, signal, report) {
    let wait = 1;
    while (!signal.aborted) {
      try {
        for await (const [name, data] of api.events("/pyvmm/events", signal)) {
          this.#take(name, data);
          wait = 1;
          report(null);
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) throw error;
      }
      report(`Connection lost; trying again in ${wait} s`);
      await new Promise((done) => setTimeout(done, wait * 1000));
      wait = Math.min(wait * 2, 15);
    }
  }

  #take(name, data) {
    if (name === "usage") {
      this.memory = data;
    } else {
      if (name === "all") {
        this.#offset = data.now - Date.now() / 1000;
        for (const kind of ["sandboxes", "snapshots"]) {
          for (const id of this[kind].keys()) if (!(id in data[kind])) this[kind].delete(id);
        }
      }
      this.#merge("sandboxes", data.sandboxes || {}, name === "change");
      this.#merge("snapshots", data.snapshots || {}, name === "change");
    }
    this.dispatchEvent(new CustomEvent(name));
  }

  #merge(kind, changes, isNews) {
    for (const [id, item] of Object.entries(changes)) {
      const before = this[kind].get(id);
      if (item === null) this[kind].delete(id);
      else this[kind].set(id, item);
      if (isNews) this.dispatchEvent(new CustomEvent("news", { detail: { kind, id, before, after: item } }));
    }
  }

  /** Seconds since 1970, by the server's clock. */
  now() {
    return Date.now() / 1000 + this.#offset;
  }

  age(item) {
    return seconds(Math.max(0, Math.floor(this.now() - Date.parse(item.startedAt) / 1000)));
  }

  left(item) {
    if (item.endAt === null) return "no limit while paused";
    return `${seconds(Math.max(0, Math.floor(Date.parse(item.endAt) / 1000 - this.now())))} left`;
  }

  /** Forks of the same sandbox; of one that is no fork, those that are no forks of the same template. */
  siblings(id) {
    const item = this.sandboxes.get(id);
    if (!item) return [];
    return [...this.sandboxes].filter(
      ([other, each]) =>
        other !== id &&
        (other === item.parent ||
          each.parent === id ||
          (each.parent === item.parent && (item.parent || each.templateID === item.templateID))),
    );
  }
}

/** How people call a sandbox. */
export function title(id, item) {
  const name = item?.metadata?.name;
  return name ? `${name} (${id.slice(0, 8)})` : id.slice(0, 12);
}
