// How answers are written: the system message and the temperature.

import { fitField } from "./view.js";

const system = document.getElementById("system");
const temperature = document.getElementById("temperature");

/** The system message; "" without one, when the server's own counts. */
export const systemMessage = () => system.value.trim();

/** What goes into a request beside the messages. */
export const requestSettings = () => ({ temperature: Number(temperature.value) });

function show() {
  fitField(system);
  document.getElementById("temperature-text").textContent = temperature.value;
  const said = systemMessage() || "no system message";
  document.getElementById("settings-preview").textContent =
    Number(temperature.value) === 0 ? said : `temperature ${temperature.value}, ${said}`;
}

system.addEventListener("input", show);
temperature.addEventListener("input", show);
show(); // a browser may have kept what was there before a reload
