// Text into the clipboard.

import { announce } from "./announce.js";

const SHOWN_FOR = 2000; // milliseconds that a button says what became of it

/** Make `button` copy what `text()` returns, and say so. */
export function copyOnClick(button, text) {
  const label = button.querySelector("span");
  const before = label.textContent;
  button.addEventListener("click", async () => {
    const outcome = (await copied(text())) ? "Copied" : "Copying was refused";
    label.textContent = outcome;
    button.classList.add("done");
    announce(outcome);
    setTimeout(() => {
      label.textContent = before;
      button.classList.remove("done");
    }, SHOWN_FOR);
  });
}

/** Whether it worked. Browsers have a clipboard only for https and localhost; elsewhere the old way must do. */
async function copied(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }
  const focused = document.activeElement;
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
