// Images beside the next question: chosen, taken with a camera, pasted or dropped. They are sent as they are.

import { announce } from "./announce.js";
import { imageTokens } from "./image_tokens.js";
import { count, megabytes } from "./numbers.js";

const element = (id) => document.getElementById(id);
const [form, list, note, question] = ["ask", "attached", "attach-note", "question"].map(element);
const THUMBNAIL = { width: 160, height: 72 }; // CSS pixels at most

/** How the model sees, as the server says it; null while it reads text only. */
let sight = null;
/** Images for the next question: {file, name, width, height, tokens, picture}. */
let attached = [];

/** Offer to attach images where the model sees; `images` is what the server says of that, or null. */
export function showSight(images) {
  sight = images ?? null;
  [element("attach").hidden, element("camera").hidden] = [sight === null, sight === null];
  if (sight === null) takeAttached();
}

/** The images for the question that is asked now. */
export function takeAttached() {
  const taken = attached;
  attached = [];
  note.hidden = true;
  show();
  return taken;
}

/** Under this a part has its image's name; it is not sent, since JSON has no symbols. */
export const NAME = Symbol("name");

/** The parts of a message for images. */
export async function imageParts(images) {
  const urls = await Promise.all(images.map(dataUrl));
  return urls.map((url, i) => ({ type: "image_url", image_url: { url }, [NAME]: images[i].name }));
}

/** An element of a list for an image: its thumbnail, and the tokens that it takes. */
export function imageItem({ name, width, height, tokens, picture }) {
  const item = document.createElement("li");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("span");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${name}, ${count(width)} by ${count(height)} pixels`);
  caption.textContent = `${count(tokens)} tokens`;
  item.append(canvas, caption);
  return item;
}

async function attach(files) {
  if (sight === null || files.length === 0) return;
  const problems = [];
  for (const file of files) {
    try {
      attached.push(await readImage(file));
    } catch (problem) {
      problems.push(String(problem.message));
    }
  }
  const tokens = attached.reduce((sum, image) => sum + image.tokens, 0);
  const said = attached.length === 0 ? "No image is attached." : `Attached: ${named(attached.length)}, ${count(tokens)} tokens.`;
  [note.hidden, note.textContent] = [problems.length === 0, problems.join(" ")];
  show();
  announce([...problems, said].join(" "));
  question.focus();
}

const named = (number) => (number === 1 ? "1 image" : `${count(number)} images`);

/** A file as an image. Raises an error that says why it is none, or one that the server does not take. */
async function readImage(file) {
  const name = file.name || "image";
  const most = Math.floor((sight.most_bytes / 4) * 3); // base64 makes 4 bytes of 3
  if (file.size > most) {
    throw new Error(`${name} has ${megabytes(file.size)}, this server takes ${megabytes(most)}.`);
  }
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    throw new Error(`${name} is no image that this browser can show.`);
  }
  const { width, height } = whole;
  const scale = Math.min(THUMBNAIL.width / width, THUMBNAIL.height / height, 1);
  const picture = document.createElement("canvas");
  [picture.width, picture.height] = [width, height].map((pixels) => Math.max(1, Math.round(pixels * scale)));
  picture.getContext("2d").drawImage(whole, 0, 0, picture.width, picture.height);
  whole.close(); // of a photograph it takes a hundred megabytes
  return { file, name, width, height, tokens: imageTokens(width, height, sight), picture };
}

function show() {
  list.replaceChildren(
    ...attached.map((image) => {
      const item = imageItem(image);
      const button = document.createElement("button");
      button.type = "button";
      button.className = "bare";
      button.setAttribute("aria-label", `Remove ${image.name}`);
      button.textContent = "×";
      button.addEventListener("click", () => {
        attached = attached.filter((each) => each !== image);
        show();
        announce(`${image.name} is removed.`);
        question.focus();
      });
      item.append(button);
      return item;
    }),
  );
  list.hidden = attached.length === 0;
  question.dispatchEvent(new Event("input")); // an image can be sent without words
}

function dataUrl({ file }) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error); // a file that was changed or removed since
    reader.readAsDataURL(file);
  });
}

for (const [button, input] of [["attach", "files"], ["camera", "photo"]].map((names) => names.map(element))) {
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    attach([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
}
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (sight === null || files.length === 0) return;
  event.preventDefault();
  attach(files);
});
const bringsFiles = (event) => sight !== null && event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  form.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) form.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  form.classList.remove("dropping");
  if (!bringsFiles(event)) return;
  event.preventDefault();
  attach([...event.dataTransfer.files]);
});
