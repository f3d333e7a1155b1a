// The conversation as a file: Markdown to read, or JSON that `/load` of `edgephi chat` goes on with.

import { announce } from "./announce.js";
import { NAME } from "./attach.js";

const KINDS = {
  md: { type: "text/markdown", write: ({ messages }) => messages.map(section).join("\n") },
  json: { type: "application/json", write: (talk) => `${JSON.stringify(talk, null, 2)}\n` },
};
const section = ({ role, content }) => `## ${role[0].toUpperCase()}${role.slice(1)}\n\n${written(content)}\n`;
const written = (content) => (typeof content === "string" ? content : content.map(writtenPart).join("\n\n"));
const writtenPart = (part) => part.text ?? `[${part[NAME]}]`;

const dialog = document.getElementById("export-dialog");

/** Have the button that exports offer the kinds of file; `talk()` is a promise of {model, messages}. */
export function offerExport(talk) {
  document.getElementById("export").addEventListener("click", () => dialog.showModal());
  document.getElementById("export-cancel").addEventListener("click", () => dialog.close());
  for (const button of dialog.querySelectorAll("[data-kind]")) {
    button.addEventListener("click", async () => {
      const { type, write } = KINDS[button.dataset.kind];
      save(`conversation.${button.dataset.kind}`, type, write(await talk()));
      dialog.close();
      announce("The conversation is saved as a file.");
    });
  }
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
