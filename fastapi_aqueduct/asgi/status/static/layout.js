// The layout of the picture: where boxes and arrows lie.

export const BOX = { least: 186, most: 270, height: 100, trial: 34, gap: 36, lane: 16 };

// The pipeline as boxes with places. A shape is a list of names, and of lists of branches beside each other. Boxes of a
// line stand on one axis: `above` and `below` are what an item needs on both sides of it.
export function layOut(shape, steps, width, isNarrow) {
  const heightOf = (name) => BOX.height + (steps.get(name)?.trial ? BOX.trial : 0);
  const boxes = [];
  const arrows = [];
  const brackets = [];
  const height = (size) => size.above + size.below;

  function measure(item) {
    if (typeof item === 'string') {
      return { width, above: BOX.height / 2, below: heightOf(item) - BOX.height / 2 };
    }
    const branches = item.map(measureLine);
    const across = branches.reduce((sum, size) => sum + height(size) + BOX.lane, -BOX.lane);
    const along = Math.max(...branches.map((size) => size.width));
    return { width: along + (isNarrow ? BOX.lane : 0), above: across / 2, below: across / 2 };
  }

  function measureLine(line) {
    const sizes = line.map(measure);
    if (isNarrow) {
      const down = sizes.reduce((sum, size) => sum + height(size) + BOX.gap, -BOX.gap);
      return { width: Math.max(...sizes.map((size) => size.width)), above: down / 2, below: down / 2 };
    }
    return {
      width: sizes.reduce((sum, size) => sum + size.width + BOX.gap, -BOX.gap),
      above: Math.max(...sizes.map((size) => size.above)),
      below: Math.max(...sizes.map((size) => size.below)),
    };
  }

  // Each returns where arrows come in and go out.
  function placeLine(line, x, y) {
    const { above } = measureLine(line);
    const ends = [];
    const starts = [];
    for (const item of line) {
      const size = measure(item);
      starts.push(isNarrow ? y : x);
      ends.push(place(item, x, isNarrow ? y : y + above - size.above));
      if (isNarrow) y += height(size) + BOX.gap;
      else x += size.width + BOX.gap;
    }
    for (let index = 1; index < ends.length; index += 1) {
      const bend = starts[index] - BOX.gap / 2; // between the items, where no box is
      for (const from of ends[index - 1].out) for (const to of ends[index].in) arrows.push({ from, to, bend });
    }
    return { in: ends[0].in, out: ends[ends.length - 1].out };
  }

  function place(item, x, y) {
    if (typeof item === 'string') {
      boxes.push({ name: item, x, y, width });
      const middle = y + BOX.height / 2;
      return isNarrow
        ? { in: [{ x: x + 24, y }], out: [{ x: x + 24, y: y + heightOf(item) }] }
        : { in: [{ x, y: middle }], out: [{ x: x + width, y: middle }] };
    }
    const ends = { in: [], out: [] };
    if (isNarrow) brackets.push({ x: x + 4, y, height: height(measure(item)) });
    for (const branch of item) {
      const own = measureLine(branch);
      const found = placeLine(branch, isNarrow ? x + BOX.lane : x + (measure(item).width - own.width) / 2, y);
      ends.in.push(...found.in);
      ends.out.push(...found.out);
      y += height(own) + BOX.lane;
    }
    // In a narrow picture branches stand one below the other: arrows go to the first and from the last.
    return isNarrow ? { in: ends.in.slice(0, 1), out: ends.out.slice(-1) } : ends;
  }

  const size = measureLine(shape);
  placeLine(shape, 1, 1);
  return { boxes, arrows, brackets, width: size.width + 2, height: height(size) + 2 };
}

// How many boxes stand one after the other.
export function lengthOf(item) {
  return typeof item === 'string' ? 1 : Math.max(...item.map((line) => line.reduce((sum, part) => sum + lengthOf(part), 0)));
}

export function depthOf(item) {
  return typeof item === 'string' ? 0 : 1 + Math.max(...item.flat().map(depthOf));
}
