// A question that is changed after it was asked.

import { fitField } from "./view.js";

/**
 * Let the question in `part`, an element of a turn, be edited. `current()` is its text; `send` is given the new one.
 */
export function editable(part, current, send) {
  const [shown, button, form] = [".text", ".edit", ".editing"].map((name) => part.querySelector(name));
  const field = form.querySelector("textarea");

  const open = (isOpen) => {
    [shown.hidden, button.hidden, form.hidden] = [isOpen, isOpen, !isOpen];
    if (!isOpen) return button.focus();
    field.value = current();
    fitField(field);
    field.focus();
  };
  const finish = () => {
    const text = field.value.trim();
    if (text === "") return;
    open(false);
    send(text);
  };

  button.addEventListener("click", () => open(true));
  form.querySelector(".cancel").addEventListener("click", () => open(false));
  field.addEventListener("input", () => fitField(field));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    finish();
  });
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape") {
      event.stopPropagation(); // it stops no answer here
      open(false);
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      finish();
    }
  });
}
