// How many tokens an image is for the model.

/**
 * Tokens of an image of so many pixels, for a model that sees by `sight`: what the server counts too
 * (`edgephi/bundle/image_tokens.py`).
 */
export function imageTokens(width, height, { tile, patch, crops }) {
  const ratio = Math.max(width, height) / Math.min(width, height);
  let along = 1; // tiles of the longer side
  while ((along + 1) * Math.ceil((along + 1) / ratio) <= crops) along += 1;
  const across = Math.ceil(Math.trunc((along * tile) / ratio) / tile);
  const [rows, columns] = width < height ? [along, across] : [across, along];
  const side = tile / patch / 2;
  return (rows * columns + 1) * side * side + 1 + (rows + 1) * side;
}
