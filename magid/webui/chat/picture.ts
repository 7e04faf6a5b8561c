// Pictures for a model: read from files, made smaller, and drawn. The page's policy shows no
// picture from elsewhere, so they are drawn on a canvas.

const LONGEST = 1280; // pixels; models look at no more

/** A JPEG as a data: address. Raises Error where the file is no picture. */
export async function load(file: Blob): Promise<string> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("cannot read this file as a picture: try a PNG or JPEG");
  });
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.9);
}

/** Draws a picture that `load` has made, within the canvas. */
export async function draw(address: string, canvas: HTMLCanvasElement): Promise<void> {
  const bytes = Uint8Array.from(atob(address.split(",")[1] ?? ""), (one) => one.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
  bitmap.close();
}
