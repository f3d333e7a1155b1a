// Every text on the page that can be seen, with its colour and the colours that lie behind it, innermost first.
const channels = (colour) => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const behind = (element) => {
  const colours = [];
  for (let each = element; each; each = each.parentElement) {
    const colour = channels(getComputedStyle(each).backgroundColor);
    if (colour[3] > 0) colours.push(colour);
    if (colour[3] === 1) return colours;
  }
  return [...colours, [255, 255, 255, 1]];
};
const found = [];
const seen = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".unseen, .skip");
for (const element of document.querySelectorAll("body *")) {
  if (!seen(element)) continue;
  const own = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("").trim();
  const place = element.placeholder && !element.value ? element.placeholder : "";
  if (!own && !place) continue;
  const style = getComputedStyle(element, place ? "::placeholder" : null);
  found.push({ text: own || place, colour: channels(style.color), behind: behind(element) });
}
return found;
