// Texts of the picture, as wide as they are drawn: SVG breaks no lines and cuts nothing.

const canvas = document.createElement('canvas').getContext('2d');

export function widthOf(text, font) {
  canvas.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
  return canvas.measureText(text).width;
}

// The beginning of a text that has room, with an ellipsis if it is not all.
export function cut(text, font, room) {
  if (widthOf(text, font) <= room) return text;
  const characters = [...text];
  let low = 0;
  let high = characters.length - 1;
  const begin = (length) => `${characters.slice(0, length).join('')}…`;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (widthOf(begin(middle), font) <= room) low = middle;
    else high = middle - 1;
  }
  return begin(low);
}
