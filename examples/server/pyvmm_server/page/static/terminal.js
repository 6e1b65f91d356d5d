/* A terminal in the sandbox.  xterm.js draws it; the server's Start, SendInput and Update are its line. */

import { decode64 } from "./api.js";
import { announce, button, h } from "./dom.js";

let loading;

/** The library, which is only fetched when somebody opens a terminal. */
function load() {
  loading ||= Promise.all([import("./vendor/xterm.mjs"), import("./vendor/addon-fit.mjs")]).then(([xterm, fit]) => {
    replaceInlineStyles();
    document.head.append(h("link", { rel: "stylesheet", href: "page/vendor/xterm.css" }));
    return { Terminal: xterm.Terminal, FitAddon: fit.FitAddon };
  });
  return loading;
}

/**
 * xterm.js makes inline styles, which the page's policy forbids.  From now on its rules become style sheets of scripts,
 * and its attributes become properties: the policy allows both, since no markup can bring them.
 */
function replaceInlineStyles() {
  document.createElement = (name, options) => {
    if (name !== "style") return Document.prototype.createElement.call(document, name, options);
    const made = Document.prototype.createElement.call(document, "template");
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    Object.defineProperty(made, "textContent", { get: () => "", set: (text) => sheet.replaceSync(text) });
    made.remove = () => {
      document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
      Element.prototype.remove.call(made);
    };
    return made;
  };
  HTMLElement.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

const LIGHT = {
  background: "#ffffff", foreground: "#1c1f26", cursor: "#1c1f26", selectionBackground: "#b9cdf2",
  black: "#1c1f26", red: "#b3261e", green: "#176b35", yellow: "#8a5200", blue: "#1f55b5", magenta: "#8a2a8a",
  cyan: "#0b6470", white: "#565c69", brightBlack: "#565c69", brightRed: "#b3261e", brightGreen: "#176b35",
  brightYellow: "#8a5200", brightBlue: "#1f55b5", brightMagenta: "#8a2a8a", brightCyan: "#0b6470", brightWhite: "#1c1f26",
};
const DARK = { background: "#14161b", foreground: "#e6e8ee", cursor: "#e6e8ee", selectionBackground: "#3a4a6b" };

class Session {
  place = h("div", { class: "shell" });
  #ending = new AbortController();
  #pid = 0;
  #input = Promise.resolve();

  constructor(id, api, say) {
    this.id = id;
    this.api = api;
    this.say = say;
  }

  async open() {
    const { Terminal, FitAddon } = await load();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const theme = () => (dark.matches ? DARK : LIGHT);
    this.terminal = new Terminal({
      linkHandler: { activate: () => {} }, // what runs inside leads nobody to another site
      screenReaderMode: true,
      minimumContrastRatio: 4.5,
      fontSize: 14,
      scrollback: 5000,
      theme: theme(),
    });
    dark.addEventListener("change", () => (this.terminal.options.theme = theme()), { signal: this.#ending.signal });
    this.fit = new FitAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.open(this.place);
    this.terminal.attachCustomKeyEventHandler((event) => {
      const leaves = event.key === "Escape" && event.ctrlKey && event.shiftKey;
      if (leaves && event.type === "keydown") document.querySelector("[role=tab][aria-selected=true]").focus();
      return !leaves;
    });
    this.resized();
    this.terminal.onData((text) => this.#send(new TextEncoder().encode(text)));
    this.terminal.onBinary((text) => this.#send(Uint8Array.from(text, (each) => each.charCodeAt(0))));
    this.terminal.onResize(({ rows, cols }) => this.#pid && this.api.resize(this.id, this.#pid, rows, cols).catch(() => {}));
    this.#run();
  }

  resized() {
    if (this.fit && this.place.isConnected) this.fit.fit();
  }

  /* One request after the other, so that keys arrive in their order. */
  #send(data) {
    if (!this.#pid) return;
    this.#input = this.#input
      .then(() => this.api.sendInput(this.id, this.#pid, data))
      .catch((error) => this.#pid && this.say(`The terminal takes no input: ${error.message}`));
  }

  async #run() {
    const { rows, cols } = this.terminal;
    const process = { cmd: "/bin/bash", args: ["-i", "-l"], envs: { TERM: "xterm-256color" } };
    this.say("Connecting");
    let end = "The connection to the terminal is lost";
    try {
      for await (const event of this.api.process(this.id, { process, pty: { size: { rows, cols } } }, this.#ending.signal)) {
        if (event.start) {
          this.#pid = event.start.pid;
          this.say("Connected. Ctrl Shift Escape leaves the terminal.");
        } else if (event.data?.pty) this.terminal.write(decode64(event.data.pty));
        else if (event.end) end = `The shell has ended: ${event.end.status}`;
      }
    } catch (error) {
      if (this.#ending.signal.aborted) return;
      end = `The terminal has ended: ${error.message}`;
    }
    this.#pid = 0;
    this.over = true;
    this.say(end);
    announce(end);
  }

  /** @param answers whether the sandbox runs: one that is paused cannot end a shell */
  close(answers) {
    if (this.#pid && answers) this.api.kill(this.id, this.#pid, { keepalive: true }).catch(() => {});
    this.#pid = 0;
    this.#ending.abort();
    this.terminal?.dispose();
  }
}

/** The terminals of this page: one for each sandbox, which goes on while another sandbox is shown. */
export class Terminals {
  #sessions = new Map();

  constructor(api, state) {
    this.api = api;
    this.state = state;
    state.addEventListener("news", ({ detail }) => detail.kind === "sandboxes" && !detail.after && this.#end(detail.id));
  }

  show(panel, id, enters) {
    const said = h("p", { role: "status" });
    const place = h("div");
    const say = (text) => (said.textContent = text);
    const restart = button("New shell", () => {
      this.#end(id);
      begin(true);
    });
    panel.replaceChildren(h("div", { class: "bar" }, said, restart), place);
    const begin = async (entersNow) => {
      let session = this.#sessions.get(id);
      const isNew = !session;
      if (isNew) {
        session = new Session(id, this.api, say);
        this.#sessions.set(id, session);
      }
      session.say = say;
      place.replaceChildren(session.place);
      try {
        if (isNew) await session.open();
        else say(session.over ? "The shell has ended." : "Connected. Ctrl Shift Escape leaves the terminal.");
        session.resized();
        if (entersNow) session.terminal?.focus();
      } catch (error) {
        this.#sessions.delete(id);
        say(`This installation has no terminal: ${error.message}`);
      }
    };
    begin(enters);
    const watch = new ResizeObserver(() => this.#sessions.get(id)?.resized());
    watch.observe(place);
    return () => watch.disconnect();
  }

  #end(id) {
    this.#sessions.get(id)?.close(this.state.sandboxes.get(id)?.state === "running");
    this.#sessions.delete(id);
  }

  close() {
    for (const id of [...this.#sessions.keys()]) this.#end(id);
  }
}
