// What a screen reader is told: whole answers and what becomes of them, never single tokens.

const region = document.getElementById("announcement");

/** Have `text` read out when the reader comes to a pause. */
export function announce(text) {
  // The same text twice is news only if the region was empty in between.
  region.textContent = "";
  setTimeout(() => (region.textContent = text), 50);
}
