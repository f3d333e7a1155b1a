// What the model wrote, as elements. Only text nodes ever take it: no markup of the model's can come to life.

import { copyOnClick } from "./copy.js";

const shown = new WeakMap(); // element -> the block it was built from, as JSON

/** Show `text` in `place`, whose elements are kept where their part of the text has not changed. */
export function showText(place, text) {
  const blocks = blocksOf(text);
  blocks.forEach((block, i) => {
    const source = JSON.stringify(block);
    const old = place.children[i];
    if (old && shown.get(old) === source) return;
    const element = BUILDERS[block.kind](block);
    shown.set(element, source);
    if (old) old.replaceWith(element);
    else place.append(element);
  });
  while (place.children.length > blocks.length) place.lastElementChild.remove();
}

const BUILDERS = { prose: proseElement, code: codeElement, json: jsonElement };

/** Prose and fenced code, in order: {kind, language, text}. A fence that is still open ends with the text. */
function blocksOf(text) {
  if (/^\s*\{\s*"/.test(text)) return [{ kind: "json", text: text.trim() }];
  const blocks = [];
  let fence = "";
  let block = { kind: "prose", text: "" };
  const finish = (next) => {
    const trimmed = block.text.replace(block.kind === "code" ? /\n$/ : /^\n+|\s+$/g, "");
    if (block.kind === "code" || trimmed) blocks.push({ ...block, text: trimmed });
    block = next;
  };
  for (const line of text.split(/(?<=\n)/)) {
    const mark = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/.exec(line);
    if (mark && !fence) {
      fence = mark[1];
      finish({ kind: "code", language: mark[2], text: "" });
    } else if (mark && !mark[2] && mark[1].startsWith(fence)) {
      fence = "";
      finish({ kind: "prose", text: "" });
    } else {
      block.text += line;
    }
  }
  finish(null);
  return blocks;
}

function codeElement({ language, text }) {
  const element = document.getElementById("code-template").content.firstElementChild.cloneNode(true);
  element.querySelector(".language").textContent = language || "code";
  element.querySelector("code").textContent = text;
  copyOnClick(element.querySelector(".copy"), () => text);
  return element;
}

/** An answer that is JSON as a whole, as the model wrote it. */
function jsonElement({ text }) {
  const element = document.createElement("pre");
  const code = document.createElement("code");
  code.textContent = text;
  element.append(code);
  return element;
}

/** Text with its line breaks; `code` and **strong** are the only marks that are understood. */
function proseElement({ text }) {
  const element = document.createElement("p");
  const marks = /`([^`\n]+)`|(?<![\w*])\*\*(?=\S)([^*\n]*[^*\s])\*\*(?![\w*])/g;
  let end = 0;
  for (const mark of text.matchAll(marks)) {
    const marked = document.createElement(mark[1] === undefined ? "strong" : "code");
    marked.textContent = mark[1] ?? mark[2];
    element.append(text.slice(end, mark.index), marked);
    end = mark.index + mark[0].length;
  }
  element.append(text.slice(end));
  return element;
}
