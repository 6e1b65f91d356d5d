/* The chosen sandbox: facts, buttons, and a tab for each view of it. */

import { button, h } from "./dom.js";
import { title } from "./state.js";
import { bytes, clock } from "./units.js";

export class Details {
  #root;
  #state;
  #actions;
  #views;
  #id = "";
  #tab = 0;
  #parts = {};
  #opened = null;
  #panel = null;
  #isPaused = false;

  /**
   * @param views [title, function (panel, id, enters) that shows one, and may return a function that ends it, whether it
   * needs a sandbox that runs]
   */
  constructor(root, state, actions, views) {
    this.#root = root;
    this.#state = state;
    this.#actions = actions;
    this.#views = views;
    for (const name of ["all", "change", "usage"]) state.addEventListener(name, () => this.#refresh());
    setInterval(() => this.#refresh(), 1000);
  }

  /** Show a sandbox; an empty id: none. */
  show(id, text = "") {
    this.close();
    this.#id = id;
    if (!id) {
      this.#root.replaceChildren(h("p", { class: "hint" }, text || "Choose a sandbox in the tree."));
      return;
    }
    const make = (name, text, action, properties) => {
      this.#parts[name] = button(text, () => this.#actions[action](this.#id), properties);
      return this.#parts[name];
    };
    this.#parts.facts = h("dl", { class: "facts" });
    this.#root.replaceChildren(
      h("h2", {}, title(id, this.#state.sandboxes.get(id))),
      h("div", { class: "buttons", role: "group", "aria-label": "Actions" },
        make("pause", "Pause", "pauseOrResume"),
        make("fork", "Fork", "fork"),
        make("snapshot", "Snapshot", "snapshot"),
        make("time", "Time limit", "extend"),
        make("kill", "Kill", "kill", { class: "danger" })),
      this.#parts.facts,
      this.#makeTabs());
    this.#openTab(false);
    this.#refresh();
  }

  #makeTabs() {
    this.#panel = h("div", { role: "tabpanel", id: "panel", tabindex: "0" });
    const tabs = this.#views.map(([name], at) =>
      h("button", { type: "button", role: "tab", id: `tab-${at}`, "aria-controls": "panel", onclick: () => this.#choose(at, true) },
        name));
    this.#parts.tabs = h("div", { role: "tablist", "aria-label": "Views" }, tabs);
    this.#parts.tabs.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const to = { ArrowRight: this.#tab + 1, ArrowLeft: this.#tab - 1, Home: 0, End: last }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.#choose(to < 0 ? last : to > last ? 0 : to);
      tabs[this.#tab].focus();
    });
    return h("div", { class: "views" }, this.#parts.tabs, this.#panel);
  }

  #choose(at, enters = false) {
    this.#tab = at;
    this.#openTab(enters);
  }

  /** @param enters whether the view may take the focus: not from those who only pass it */
  #openTab(enters) {
    const [, show, needsRunning] = this.#views[this.#tab];
    this.close();
    [...this.#parts.tabs.children].forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === this.#tab));
      tab.setAttribute("tabindex", at === this.#tab ? "0" : "-1");
    });
    this.#panel.setAttribute("aria-labelledby", `tab-${this.#tab}`);
    this.#panel.replaceChildren();
    this.#isPaused = this.#state.sandboxes.get(this.#id)?.state === "paused";
    if (this.#isPaused && needsRunning) this.#panel.append(h("p", {}, "It is paused: resume it to see this."));
    else this.#opened = show(this.#panel, this.#id, enters) || null;
  }

  close() {
    this.#opened?.();
    this.#opened = null;
  }

  #refresh() {
    if (!this.#id) return;
    const item = this.#state.sandboxes.get(this.#id);
    if (!item) {
      this.show("", `The sandbox ${this.#id.slice(0, 12)} has ended.`);
      return;
    }
    const paused = item.state === "paused";
    if (paused !== this.#isPaused && this.#views[this.#tab][2]) {
      if (this.#panel.contains(document.activeElement)) this.#parts.tabs.children[this.#tab].focus();
      this.#openTab(false);
    }
    put(this.#parts.pause, paused ? "Resume" : "Pause");
    for (const name of ["fork", "snapshot", "time"]) this.#parts[name].disabled = paused;
    const used = this.#state.memory[this.#id];
    const rows = {
      State: item.state,
      Id: this.#id,
      Template: item.templateID,
      "Fork of": item.parent || "no other sandbox",
      Started: `${clock(item.startedAt)}, ${this.#state.age(item)} ago`,
      Time: this.#state.left(item),
      Memory: `${used === undefined ? "unknown" : bytes(used)} of ${item.memoryMB} MiB`,
      CPUs: String(item.cpuCount),
      Network: item.internet ? "of the host" : "none",
    };
    for (const [name, value] of Object.entries(item.metadata)) rows[`Metadata ${name}`] = value;
    const list = this.#parts.facts;
    const names = Object.keys(rows);
    if (list.children.length !== names.length) {
      list.replaceChildren(...names.map((name) => h("div", {}, h("dt", {}, name), h("dd"))));
    }
    names.forEach((name, at) => {
      put(list.children[at].firstChild, name);
      put(list.children[at].lastChild, rows[name]);
    });
  }
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
