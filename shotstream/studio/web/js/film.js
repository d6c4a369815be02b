// The layout of the film: the position of every take, as pure functions of the story and of the chunks received.

/** The number of frames of a take of `numChunks` chunks. */
export function framesOf(numChunks, model) {
  return numChunks ? model.first_chunk_frames + (numChunks - 1) * model.chunk_frames : 0;
}

/** The index of the chunk that holds a frame of a take. */
export function chunkOf(frameIndex, model) {
  return Math.max(0, Math.floor((frameIndex - model.first_chunk_frames) / model.chunk_frames) + 1);
}

/**
 * The film as a list of segments, in order. The take that is being generated has its requested `length`;
 * `numFrames` of it exist.
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

/** The segment that holds a film frame; null: none. */
export function segmentAt(segments, frame) {
  return segments.find((segment) => frame >= segment.start && frame < segment.start + segment.length) ?? null;
}

/** The film's length in frames, with what is still being generated. */
export function lengthOf(segments) {
  const last = segments.at(-1);
  return last ? last.start + last.length : 0;
}

/** Formats a frame as minutes, seconds and frames. */
export function clock(frame, fps) {
  const seconds = Math.floor(frame / fps);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(seconds / 60)}:${two(seconds % 60)}.${two(Math.floor(frame % fps))}`;
}
