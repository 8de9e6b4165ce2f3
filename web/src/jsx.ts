// What JSX is compiled to: named here once, injected by the build.
export { Fragment as jsxFragment, h as jsxElement } from "preact";
