/* The tree: templates and snapshots, the sandboxes that were started from them, and their forks. */

import { h } from "./dom.js";
import { title } from "./state.js";
import { bytes } from "./units.js";

const MARKS = { running: "●", paused: "‖", ended: "○", template: "▣", snapshot: "◆" };

export class Tree extends EventTarget {
  selected = "";
  #root;
  #state;
  #closed = new Set();
  #rows = new Map();
  #order = [];
  #active = "";

  constructor(root, state) {
    super();
    this.#root = root;
    this.#state = state;
    root.addEventListener("keydown", (event) => this.#press(event));
    for (const name of ["all", "change", "usage"]) state.addEventListener(name, () => this.draw());
  }

  /** Nodes in the order in which they are seen: key, level, place among its siblings, whether it has children. */
  #nodes() {
    const { sandboxes, snapshots } = this.#state;
    const below = new Map();
    const add = (parent, child) => below.set(parent, [...(below.get(parent) || []), child]);
    const roots = new Set();
    const ended = new Set();
    for (const [id, item] of sandboxes) {
      const from = snapshots.has(item.templateID) ? `snapshot:${item.templateID}` : `template:${item.templateID}`;
      roots.add(from);
      if (!item.parent) add(from, id);
      else if (sandboxes.has(item.parent)) add(item.parent, id);
      else {
        // The parent has ended, and its forks stay siblings.
        const key = `ended:${item.parent}`;
        if (!ended.has(key)) add(from, key);
        ended.add(key);
        add(key, id);
      }
    }
    for (const id of snapshots.keys()) roots.add(`snapshot:${id}`);
    const found = [];
    const walk = (keys, level) => {
      keys.forEach((key, at) => {
        const children = below.get(key) || [];
        found.push({ key, level, at: at + 1, of: keys.length, children: children.length });
        if (!this.#closed.has(key)) walk(children, level + 1);
      });
    };
    walk([...roots].sort().reverse(), 1); // templates before snapshots
    return found;
  }

  draw() {
    const nodes = this.#nodes();
    const focused = this.#root.contains(document.activeElement) ? this.#active : "";
    const before = this.#order;
    this.#order = nodes.map((each) => each.key);
    for (const [key, row] of this.#rows) {
      if (!this.#order.includes(key)) {
        row.remove();
        this.#rows.delete(key);
      }
    }
    if (!this.#order.includes(this.#active)) {
      // The row above the one that is gone.
      const above = before.slice(0, before.indexOf(this.#active) + 1);
      this.#active = above.findLast((key) => this.#order.includes(key)) || this.#order[0] || "";
    }
    nodes.forEach((node, at) => {
      const row = this.#rows.get(node.key) || this.#make(node.key);
      this.#update(row, node);
      if (this.#root.children[at] !== row) this.#root.insertBefore(row, this.#root.children[at] || null);
    });
    if (focused) this.#rows.get(this.#active)?.focus();
  }

  #make(key) {
    const row = h("li", { role: "treeitem", "data-key": key },
      h("span", { class: "twist", "aria-hidden": "true" }),
      h("span", { class: "mark", "aria-hidden": "true" }),
      h("span", { class: "name" }), " ", h("span", { class: "facts" }));
    row.addEventListener("click", (event) => {
      if (event.target.classList.contains("twist")) this.#toggle(key);
      else this.choose(key);
    });
    row.addEventListener("focus", () => {
      this.#active = key;
      this.#rove();
    });
    this.#rows.set(key, row);
    return row;
  }

  #update(row, { key, level, at, of, children }) {
    const [name, facts, kind] = this.#describe(key);
    const set = (attribute, value) => {
      if (row.getAttribute(attribute) !== value) row.setAttribute(attribute, value);
    };
    set("aria-level", String(level));
    set("aria-posinset", String(at));
    set("aria-setsize", String(of));
    set("aria-selected", String(key === this.selected));
    set("class", kind);
    set("tabindex", key === this.#active ? "0" : "-1");
    if (children) set("aria-expanded", String(!this.#closed.has(key)));
    else row.removeAttribute("aria-expanded");
    row.style.setProperty("--level", level);
    const [twist, mark, label, more] = row.querySelectorAll("span");
    const texts = [children ? (this.#closed.has(key) ? "▸" : "▾") : "", MARKS[kind], name, facts];
    [twist, mark, label, more].forEach((part, index) => {
      if (part.textContent !== texts[index]) part.textContent = texts[index];
    });
  }

  #describe(key) {
    const [kind, id] = key.includes(":") ? split(key) : ["sandbox", key];
    if (kind === "template") return [id, "template", kind];
    if (kind === "ended") return [id.slice(0, 12), "ended", kind];
    if (kind === "snapshot") {
      const item = this.#state.snapshots.get(id);
      return [item.name || id.slice(0, 12), `snapshot of ${item.sandbox.slice(0, 12)}`, kind];
    }
    const item = this.#state.sandboxes.get(id);
    const used = this.#state.memory[id];
    const facts = [item.state, this.#state.age(item), this.#state.left(item)];
    facts.push(used === undefined ? `${item.memoryMB} MiB` : `${bytes(used)} of ${item.memoryMB} MiB`);
    for (const [name, value] of Object.entries(item.metadata)) if (name !== "name") facts.push(`${name}=${value}`);
    return [title(id, item), facts.join(" · "), item.state];
  }

  #rove() {
    for (const [key, row] of this.#rows) row.setAttribute("tabindex", key === this.#active ? "0" : "-1");
  }

  #toggle(key) {
    if (!this.#closed.delete(key)) this.#closed.add(key);
    this.draw();
  }

  focus(key) {
    this.#active = key;
    this.#rove();
    this.#rows.get(key)?.focus();
  }

  choose(key) {
    this.selected = key;
    this.#active = key;
    this.draw();
    this.dispatchEvent(new CustomEvent("choose", { detail: key }));
  }

  #press(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = this.#order.indexOf(this.#active);
    const row = this.#rows.get(this.#active);
    if (!row) return;
    const open = row.getAttribute("aria-expanded");
    const level = Number(row.getAttribute("aria-level"));
    const moves = {
      ArrowDown: () => this.focus(this.#order[Math.min(at + 1, this.#order.length - 1)]),
      ArrowUp: () => this.focus(this.#order[Math.max(at - 1, 0)]),
      Home: () => this.focus(this.#order[0]),
      End: () => this.focus(this.#order.at(-1)),
      ArrowRight: () => {
        if (open === "false") this.#toggle(this.#active);
        else if (open === "true") this.focus(this.#order[at + 1]);
      },
      ArrowLeft: () => {
        if (open === "true") return this.#toggle(this.#active);
        const above = this.#order.slice(0, at).findLast((key) => this.#level(key) < level);
        if (above) this.focus(above);
      },
      Enter: () => this.choose(this.#active),
      " ": () => this.choose(this.#active),
    };
    if (event.key in moves) {
      event.preventDefault();
      moves[event.key]();
    } else {
      this.dispatchEvent(new CustomEvent("press", { detail: { key: event.key, node: this.#active, event } }));
    }
  }

  #level(key) {
    return Number(this.#rows.get(key).getAttribute("aria-level"));
  }
}

export function split(key) {
  const at = key.indexOf(":");
  return [key.slice(0, at), key.slice(at + 1)];
}
