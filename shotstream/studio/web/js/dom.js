// A small virtual DOM: descriptions of elements, and `render`, which updates the document to match.
// Elements are kept where tag and key match, so that focus, scrolling and the video survive every update.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "rect", "circle"]);

/** Describes an element; children may be nested lists; null, undefined and false are left out. */
export function h(tag, props, ...children) {
  return { tag, props: props ?? {}, key: props?.key, children };
}

/** Updates the children of `parent` to match a description. Real nodes are inserted as they are. */
export function render(parent, described) {
  const wanted = described.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const left = new Set(parent.childNodes);
  const keyed = new Map();
  const unkeyed = [];
  for (const node of left) {
    if (node.describedKey === undefined) unkeyed.push(node);
    else keyed.set(node.describedKey, node);
  }
  const nodes = wanted.map((child) => {
    const node = child instanceof Node ? child : matching(child, keyed, unkeyed) ?? create(child);
    left.delete(node);
    return node;
  });
  for (const node of left) node.remove();
  let place = parent.firstChild;
  nodes.forEach((node, index) => {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    if (!(wanted[index] instanceof Node)) fill(node, wanted[index]);
  });
}

function matching(child, keyed, unkeyed) {
  if (typeof child !== "object") {
    const at = unkeyed.findIndex((node) => node.nodeType === Node.TEXT_NODE);
    return at < 0 ? null : unkeyed.splice(at, 1)[0];
  }
  if (child.key !== undefined) {
    const node = keyed.get(child.key);
    return node?.localName === child.tag ? node : null;
  }
  const at = unkeyed.findIndex((node) => node.localName === child.tag && node.describedProps);
  return at < 0 ? null : unkeyed.splice(at, 1)[0];
}

function create(child) {
  if (typeof child !== "object") return document.createTextNode("");
  const node = SVG_TAGS.has(child.tag)
    ? document.createElementNS(SVG, child.tag)
    : document.createElement(child.tag);
  if (child.key !== undefined) node.describedKey = child.key;
  node.describedProps = {};
  child.props.ref?.(node);
  return node;
}

function fill(node, child) {
  if (typeof child !== "object") {
    const text = String(child);
    if (node.data !== text) node.data = text;
    return;
  }
  const old = node.describedProps;
  const props = child.props;
  for (const name of Object.keys(old)) if (!(name in props)) set(node, name, null);
  for (const [name, value] of Object.entries(props)) {
    if ((old[name] !== value || name === "checked")) set(node, name, value);
  }
  node.describedProps = props;
  render(node, child.children);
  // Last: a select has its options now. Compared with the element itself, because a person may have typed.
  if ("value" in props && node.localName !== "option" && node.value !== props.value) node.value = props.value;
}

function set(node, name, value) {
  if (name === "key" || name === "ref" || (name === "value" && node.localName !== "option")) return;
  // Without what it returns: a false would stop what the browser does itself, typing included.
  if (name.startsWith("on")) node[name.toLowerCase()] = value && ((event) => void value(event));
  else if (name === "style") {
    for (const [property, text] of Object.entries(value ?? {})) node.style.setProperty(property, text);
  } else if (name === "checked") node.checked = value;
  else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : value);
}
