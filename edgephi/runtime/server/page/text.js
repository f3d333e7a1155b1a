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
    const element = block.code ? codeElement(block) : proseElement(block);
    shown.set(element, source);
    if (old) old.replaceWith(element);
    else place.append(element);
  });
  while (place.children.length > blocks.length) place.lastElementChild.remove();
}

/** Prose and fenced code, in order: {code, language, text}. A fence that is still open ends with the text. */
function blocksOf(text) {
  if (/^\s*\{\s*"/.test(text)) return [{ code: true, language: "json", text: text.trim() }];
  const blocks = [];
  let fence = "";
  let block = { code: false, language: "", text: "" };
  const finish = (next) => {
    const trimmed = block.code ? block.text.replace(/\n$/, "") : block.text.replace(/^\n+|\s+$/g, "");
    if (block.code || trimmed) blocks.push({ ...block, text: trimmed });
    block = next;
  };
  for (const line of text.split(/(?<=\n)/)) {
    const mark = /^\s*(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/.exec(line);
    if (mark && !fence) {
      fence = mark[1];
      finish({ code: true, language: mark[2], text: "" });
    } else if (mark && !mark[2] && mark[1].startsWith(fence)) {
      fence = "";
      finish({ code: false, language: "", text: "" });
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
  element.classList.toggle("wraps", language === "json");
  copyOnClick(element.querySelector(".copy"), () => text);
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
