"""The public face: what `import jaxweights as jw` offers."""
