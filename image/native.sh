#!/bin/sh
# native.sh PACKAGE FOLDER…: puts a package with native code, which no bundle can hold, with what it needs beside bundles.
set -eu
package=$1
shift
for folder; do
  [ -d "$folder" ] || { echo "native.sh: $folder: no such folder" >&2; exit 2; }
  mkdir -p "$folder/node_modules"
  node -e '
    const { packages } = require("./package-lock.json");
    const wanted = new Set();
    const visit = (name, from) => {
      for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf("/node_modules/")))) {
        const path = `${at === "" ? "" : `${at}/`}node_modules/${name}`;
        if (packages[path]) {
          if (wanted.has(path)) return;
          wanted.add(path);
          for (const below of Object.keys(packages[path].dependencies ?? {})) visit(below, path);
          return;
        }
        if (at === "") throw new Error(`package-lock.json lacks ${name}`);
      }
    };
    visit(process.argv[1], "");
    console.log([...wanted].join("\n"));
  ' "$package" | while read -r path; do
    mkdir -p "$folder/$path"
    (cd "$path" && tar cf - --exclude='./node_modules' --exclude='./build/darwin' --exclude='./build/win32' --exclude='./src' .) | tar xf - -C "$folder/$path"
  done
done
