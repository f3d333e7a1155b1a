// The API key: asked for when the server wants one, kept until the tab is closed.

const PLACE = "edgephi-api-key";

const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const field = document.getElementById("key");
const problem = document.getElementById("key-problem");

/** The key that was given before; null without one. */
export function knownKey() {
  return sessionStorage.getItem(PLACE);
}

/** Ask for a key. Whether one was given; `signal` gives up for the user. */
export function askForKey(signal) {
  problem.textContent = knownKey() === null ? "" : "The server did not accept that key.";
  field.value = "";
  const given = new Promise((resolve) => {
    const giveUp = () => dialog.close();
    signal?.addEventListener("abort", giveUp);
    dialog.addEventListener(
      "close",
      () => {
        signal?.removeEventListener("abort", giveUp);
        resolve(dialog.returnValue === "given");
      },
      { once: true },
    );
  });
  dialog.returnValue = "";
  dialog.showModal();
  return given;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = field.value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) {
    // Other characters cannot stand in a request's header at all.
    problem.textContent = "A key has only letters, digits and signs, without spaces.";
    return;
  }
  sessionStorage.setItem(PLACE, key);
  field.value = "";
  dialog.close("given");
});
document.getElementById("key-cancel").addEventListener("click", () => dialog.close());
