/* Signing in and out, and what belongs together. */

import { Actions } from "./actions.js";
import { Api } from "./api.js";
import { Details } from "./details.js";
import { showShortcuts } from "./dialogs.js";
import { $, announce, complain } from "./dom.js";
import { State, title } from "./state.js";
import { split, Tree } from "./tree.js";
import { viewsOf } from "./views.js";

const KEY = "pyvmm-key";

function show(signedIn) {
  $("signed-out").hidden = signedIn;
  $("signed-in").hidden = !signedIn;
  $("sign-out").hidden = !signedIn;
  $("keys").hidden = !signedIn;
}

function askForKey(error = "") {
  sessionStorage.removeItem(KEY);
  show(false);
  complain(error);
  $("connection").textContent = "";
  $("key").value = "";
  $("key").focus();
}

/** What those who do not see the tree hear. */
function tellNews(state, { kind, id, before, after }) {
  if (kind !== "sandboxes") return;
  const name = title(id, after || before);
  if (!after) announce(`Sandbox ${name} has ended`);
  else if (!before) {
    const of = after.parent ? `, a fork of ${title(after.parent, state.sandboxes.get(after.parent))}` : "";
    announce(`Sandbox ${name} has started${of}`);
  } else if (before.state !== after.state) announce(`Sandbox ${name} is ${after.state}`);
}

function begin(key) {
  const api = new Api(key);
  const state = new State();
  const actions = new Actions(api, state);
  const tree = new Tree($("tree"), state);
  const views = viewsOf(api, state);
  const details = new Details($("sandbox"), state, actions, views.list);

  const start = async (template) => {
    const id = await actions.create(template);
    if (!id) return;
    if (state.sandboxes.has(id)) tree.choose(id);
    else state.addEventListener("change", () => state.sandboxes.has(id) && tree.choose(id), { once: true });
  };
  tree.addEventListener("choose", ({ detail: node }) => {
    const [kind, id] = split(node);
    if (!node.includes(":")) details.show(node);
    else if (kind === "ended") details.show("", `The sandbox ${id} has ended; its forks are siblings.`);
    else details.show("", `Press Enter, or “New sandbox”, to start one from ${kind} ${id}.`);
  });
  tree.addEventListener("press", ({ detail: { key: pressed, node, event } }) => {
    const isSandbox = !node.includes(":");
    const calls = { p: "pauseOrResume", f: "fork", s: "snapshot", Delete: "kill" };
    if (pressed === "n") start(isSandbox || node.startsWith("ended:") ? undefined : split(node)[1]);
    else if (pressed === "?") showShortcuts();
    else if (pressed in calls && isSandbox) actions[calls[pressed]](node);
    else return;
    event.preventDefault();
  });
  for (const name of ["all", "change"]) {
    state.addEventListener(name, () => ($("empty").hidden = state.sandboxes.size + state.snapshots.size > 0));
  }
  state.addEventListener("news", ({ detail }) => tellNews(state, detail));

  const ending = new AbortController();
  $("new").addEventListener("click", () => start(), { signal: ending.signal });
  $("keys").addEventListener("click", showShortcuts, { signal: ending.signal });
  const end = () => {
    ending.abort();
    details.close();
    views.close();
    sessionStorage.removeItem(KEY);
    location.reload(); // nothing of what the key has shown is left
  };
  $("sign-out").addEventListener("click", end, { signal: ending.signal });
  addEventListener("pagehide", () => views.close(), { signal: ending.signal });

  let isIn = false;
  const report = (trouble) => {
    $("connection").textContent = trouble || "Connected";
    if (trouble || isIn) return;
    isIn = true;
    show(true);
    details.show("");
    $("tree").querySelector("[tabindex='0']")?.focus();
  };
  state.follow(api, ending.signal, report).catch(end); // the key is no longer valid
  setInterval(() => tree.draw(), 1000);
}

async function signIn(key) {
  complain("");
  $("connection").textContent = "Signing in";
  try {
    if (!/^[!-~]+$/.test(key)) throw new Error("an API key has letters, digits and signs of ASCII only");
    await new Api(key).call("GET", "/v2/sandboxes?limit=1");
  } catch (error) {
    askForKey(`Not signed in: ${error.message}.`);
    return;
  }
  sessionStorage.setItem(KEY, key);
  begin(key);
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn($("key").value.trim());
});
const kept = sessionStorage.getItem(KEY);
if (kept) signIn(kept);
else askForKey();
