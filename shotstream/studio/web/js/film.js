// Where every take lies in the film: pure functions of the story and of how much of the open take has come.

/** Frames of a take of so many chunks. */
export function framesOf(numChunks, model) {
  return numChunks ? model.first_chunk_frames + (numChunks - 1) * model.chunk_frames : 0;
}

/** Which chunk of its take a frame is in, from 0. */
export function chunkOf(frameIndex, model) {
  return Math.max(0, Math.floor((frameIndex - model.first_chunk_frames) / model.chunk_frames) + 1);
}

/**
 * The film as a list of segments, in order. The take in the making stands where its shot is, at the length
 * that was ordered: `numFrames` of it are there, `length` are to be.
 */
export function layOut(story, model, numMade) {
  const segments = [];
  let start = 0;
  story.shots.forEach((shot, shotIndex) => {
    const making = story.making?.shot_id === shot.shot_id ? story.making : null;
    const take = making ? null : shot.takes.find((candidate) => candidate.take_id === shot.take_id);
    if (!making && !take) return;
    const numChunks = making ? numMade(making.take_id) : take.num_chunks;
    const length = framesOf((making ?? take).num_chunks, model);
    segments.push({
      takeId: (making ?? take).take_id,
      shotId: shot.shot_id,
      shotIndex,
      start,
      numChunks,
      numFrames: framesOf(numChunks, model),
      length,
      isMaking: making !== null,
    });
    start += length;
  });
  return segments;
}

/** The segment that holds a frame of the film; null: none. */
export function segmentAt(segments, frame) {
  return segments.find((segment) => frame >= segment.start && frame < segment.start + segment.length) ?? null;
}

/** The film's length in frames, what is still to be made included. */
export function lengthOf(segments) {
  const last = segments.at(-1);
  return last ? last.start + last.length : 0;
}

/** Minutes, seconds and frames. */
export function clock(frame, fps) {
  const seconds = Math.floor(frame / fps);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(seconds / 60)}:${two(seconds % 60)}.${two(Math.floor(frame % fps))}`;
}
