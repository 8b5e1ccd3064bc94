// Sizes of pictures by their aspect ratio, and what a reference loses when it is made to fit.

/** The ratios to choose from. */
export const RATIOS = ["1:1", "4:3", "3:4", "16:9", "9:16"];

/** Width and height of a ratio: about as many pixels as the model's default has, in multiples, within the limits. */
export function sizeOf(ratio, { defaults, limits }) {
  const [across, down] = ratio.split(":").map(Number);
  const { multiple } = limits;
  const most = Math.floor(limits.side / multiple);
  let best = { width: multiple, height: multiple, miss: Infinity };
  for (let w = 1; w <= most; w++) {
    for (const h of [Math.floor((w * down) / across), Math.ceil((w * down) / across)]) {
      const [width, height] = [w * multiple, h * multiple];
      if (h < 1 || h > most || width * height > limits.pixels) continue;
      const ofRatio = Math.abs(Math.log((w * down) / (h * across)));
      const ofPixels = Math.abs(Math.log((width * height) / (defaults.width * defaults.height)));
      if (ofRatio + ofPixels < best.miss) best = { width, height, miss: ofRatio + ofPixels };
    }
  }
  return { width: best.width, height: best.height };
}

/** The ratio that gives this size, or "custom". */
export function ratioOf(width, height, model) {
  const same = (ratio) => {
    const made = sizeOf(ratio, model);
    return made.width === width && made.height === height;
  };
  return RATIOS.find(same) ?? "custom";
}

/**
 * What is cut off a reference of `width` x `height` that was scaled to `longSide` and came out as `seen`, in words. The
 * other side is rounded down, as uno-models/src/preprocess.rs does it.
 */
export function cropNote({ width, height }, longSide, seen) {
  const isWide = width >= height;
  const short = Math.trunc(isWide ? (longSide / width) * height : (longSide / height) * width);
  const across = 1 - seen.width / (isWide ? longSide : short);
  const down = 1 - seen.height / (isWide ? short : longSide);
  const percent = (part) => `${Math.max(1, Math.round(part * 100))} %`;
  const cuts = [];
  if (across > 0) cuts.push(`${percent(across)} of the width`);
  if (down > 0) cuts.push(`${percent(down)} of the height`);
  return cuts.length ? `${cuts.join(" and ")} cut` : "nothing cut";
}
