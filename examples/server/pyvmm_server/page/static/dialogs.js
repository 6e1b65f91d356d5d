/* Questions.  The browser's own dialog element keeps the focus inside, and gives it back. */

import { button, h } from "./dom.js";

function show(heading, parts, buttons) {
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, heading), parts, h("p", { class: "buttons" }, buttons));
  document.body.append(dialog);
  const ended = new Promise((done) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      done(dialog.returnValue);
    });
  });
  dialog.showModal();
  return [dialog, ended];
}

/** Whether the user confirms. */
export async function confirmed(heading, text, verb) {
  const yes = button(verb, () => dialog.close("yes"), { class: "danger" });
  const no = button("Cancel", () => dialog.close(""), { autofocus: true });
  const [dialog, ended] = show(heading, [h("p", {}, text)], [no, yes]);
  return (await ended) === "yes";
}

/** What the user enters: a value for each field, or null.  A field is [name, label, value, type]. */
export async function ask(heading, fields, verb) {
  const inputs = fields.map(([name, label, value, type = "text"]) => [
    label,
    h("input", { id: `ask-${name}`, name, type, value, autocomplete: "off", spellcheck: "false", min: "0" }),
  ]);
  const form = h("form", {},
    inputs.map(([label, input]) => h("p", {}, h("label", { for: input.id }, label), " ", input)),
    h("p", { class: "buttons" }, button("Cancel", () => dialog.close("")), h("button", { type: "submit" }, verb)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  const [dialog, ended] = show(heading, [form], []);
  inputs[0][1].select();
  if ((await ended) !== "yes") return null;
  return Object.fromEntries(inputs.map(([, input]) => [input.name, input.value]));
}

const SHORTCUTS = [
  ["↑ ↓", "move in the tree"],
  ["← →", "close or open a branch, or go to the parent or the first child"],
  ["Enter", "show the sandbox"],
  ["p", "pause or resume it"],
  ["f", "fork it"],
  ["s", "save a snapshot of it"],
  ["Delete", "kill it, after a question"],
  ["n", "start a new sandbox"],
  ["?", "show this list"],
  ["Ctrl Shift Escape", "leave the terminal"],
];

export async function showShortcuts() {
  const list = h("dl", { class: "shortcuts" },
    SHORTCUTS.map(([keys, what]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, what)]));
  const text = h("p", {}, "Letters work while the tree has the focus.");
  const [dialog, ended] = show("Shortcuts", [list, text], [button("Close", () => dialog.close(""), { autofocus: true })]);
  await ended;
}
