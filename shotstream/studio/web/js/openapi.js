// The API reference, drawn from openapi.json: parameters, answers, and a live try of each GET route.

import { request, urlOf } from "./api.js";
import { h, render } from "./dom.js";

const ANSWERS = new Map(); // path: what it said

async function begin() {
  const app = document.getElementById("app");
  try {
    const schema = await request("api/openapi.json");
    const draw = () => render(app, [pageView(schema, draw)]);
    draw();
  } catch (error) {
    render(app, [h("main", null, h("p", { role: "alert" }, error.message))]);
  }
}

function pageView(schema, draw) {
  const routes = Object.entries(schema.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  return h(
    "div",
    { class: "api" },
    h("header", { class: "bar" }, h("a", { class: "mark", href: urlOf("") }, h("span", { class: "logo" }), "ShotStream")),
    h(
      "main",
      null,
      h("h1", null, "API of the studio"),
      h(
        "p",
        { class: "lead" },
        "For other programs: ",
        h("a", { href: urlOf("api/openapi.json") }, "openapi.json"),
        `, OpenAPI ${schema.openapi}. Live controls and video use one WebSocket, `,
        h("code", null, "/api/stories/{story_id}/live"),
        "; its messages are in docs/studio_protocol.md.",
      ),
      routes.map((route) => routeView(schema, route, draw)),
    ),
  );
}

function routeView(schema, { path, method, operation }, draw) {
  const body = Object.entries(operation.requestBody?.content ?? {})[0];
  const good = Object.entries(operation.responses).find(([status]) => status.startsWith("2"));
  const answer = Object.entries(good?.[1].content ?? {})[0];
  const parameters = operation.parameters ?? [];
  const canTry = method === "get" && parameters.length === 0;
  return h(
    "details",
    { key: `${method} ${path}`, class: "route" },
    h("summary", null, h("span", { class: `method ${method}` }, method.toUpperCase()), h("code", null, path), h("span", { class: "told" }, operation.description ?? "")),
    parameters.length > 0 && part("Parameters", rowsView(parameters.map((one) => [one.name, one.schema, one.required]), schema)),
    body && part(`Request body: ${body[0]}`, shapeView(body[1].schema, schema)),
    good && part(`Response: ${good[0]}${answer ? `, ${answer[0]}` : ""}`, answer ? shapeView(answer[1].schema, schema) : null),
    canTry && h("button", { class: "small", onclick: () => tryIt(path, draw) }, "Send the request"),
    ANSWERS.has(path) && h("pre", { tabindex: 0, "aria-label": `Response of ${path}` }, ANSWERS.get(path)),
  );
}

async function tryIt(path, draw) {
  try {
    ANSWERS.set(path, JSON.stringify(await request(path.slice(1)), null, 2).slice(0, 20_000));
  } catch (error) {
    ANSWERS.set(path, error.message);
  }
  draw();
}

function part(title, content) {
  return h("section", null, h("h3", null, title), content);
}

/** The fields of a schema; of a list, those of its items. */
function shapeView(schema, all) {
  const inner = resolve(schema.items ?? schema, all);
  if (!inner?.properties) return h("p", { class: "kind" }, kindOf(schema));
  const required = new Set(inner.required ?? []);
  const fields = Object.entries(inner.properties).map(([name, field]) => [name, field, required.has(name)]);
  return [h("p", { key: "kind", class: "kind" }, kindOf(schema)), rowsView(fields, all)];
}

function rowsView(fields, all) {
  return h(
    "table",
    null,
    h("tbody", null, fields.map(([name, field, isRequired]) =>
      h("tr", { key: name }, h("th", { scope: "row" }, h("code", null, name)), h("td", null, kindOf(field)), h("td", null, aboutOf(field, isRequired, all))),
    )),
  );
}

function aboutOf(field, isRequired, all) {
  const text = field.description ?? resolve(field, all)?.description ?? "";
  return [isRequired ? "" : "may be left out. ", text.split("\n")[0]].join("");
}

function resolve(schema, all) {
  return schema?.$ref ? all.components.schemas[schema.$ref.split("/").at(-1)] : schema;
}

function kindOf(schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kindOf).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return schema.items ? `list of ${kindOf(schema.items)}` : "list";
  return [schema.type ?? "bytes", schema.pattern].filter(Boolean).join(" ");
}

begin();
