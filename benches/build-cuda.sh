#!/bin/sh
# Prepares a build with feature `cuda` on Debian 12 where the LLVM bundle that burn's build downloads is out of reach, and builds
# one program. With an ordinary network none of this is needed: `cargo build --features cuda` is enough.
#
#   benches/build-cuda.sh                            lays LLVM and libdevice, builds nothing
#   benches/build-cuda.sh NAME [FEATURES]            also builds an example or binary (features: cuda), stripped and compressed
#
# LLVM's static libraries come from Debian sid, by this machine's own mirror; they are unpacked (240 MB), not installed. In
# target/carry lies what a GPU machine needs beside its driver: the program and one file of the toolkit, libdevice.10.bc. There:
#
#   gunzip -c carry/NAME.gz > NAME && chmod +x NAME && CUDA_PATH=$PWD/carry/cuda ./NAME ...
set -eu
cd "$(dirname "$0")/.."
name=${1:-}
features=${2:-cuda}
llvm=23                                       # Debian's llvm-NN, and the version that burn 0.22.1 looks for
bundle=${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-23.1.0-4
target=${CARGO_TARGET_DIR:-target}
carry=$target/carry
work=${WORK:-${TMPDIR:-/tmp}/uno-rs-llvm}     # packages and the unpacked LLVM, about 700 MB

lay_llvm() {
  command -v g++ >/dev/null || { apt-get update -q; apt-get install -y -q --no-install-recommends g++; }
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/packages" "$work/root"
  # The mirror that this machine uses: files of the newer form first, then one-line lists.
  mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk '/^URIs:/ { print $2; exit }')
  [ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    sed 's/\[[^]]*\] *//' | awk '$1 == "deb" { print $2; exit }')
  [ -n "$mirror" ] || { echo "no Debian mirror found in /etc/apt; add one to sources.list" >&2; exit 1; }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" > "$work/apt/sources.list"
  sid() {
    apt-get -q -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
      -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root \
      -o Acquire::Languages=none "$@"
  }
  sid update
  (
    cd "$work/packages"
    rm -f ./*.deb
    sid download "llvm-$llvm-dev" "llvm-$llvm"
    # zlib and zstd of this release ask for no newer C library than it has.
    apt-get -q -o APT::Sandbox::User=root download zlib1g-dev libzstd-dev
  )
  for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/root"; done

  # sid's LLVM calls number parsers by the names that they have since glibc 2.38; older systems have them without the prefix.
  cat > "$work/isoc23.c" <<'C'
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
long __isoc23_strtol(const char *s, char **end, int base) { return strtol(s, end, base); }
long long __isoc23_strtoll(const char *s, char **end, int base) { return strtoll(s, end, base); }
unsigned long __isoc23_strtoul(const char *s, char **end, int base) { return strtoul(s, end, base); }
unsigned long long __isoc23_strtoull(const char *s, char **end, int base) { return strtoull(s, end, base); }
int __isoc23_sscanf(const char *s, const char *form, ...) {
  va_list a;
  va_start(a, form);
  int count = vsscanf(s, form, a);
  va_end(a);
  return count;
}
int __isoc23_scanf(const char *form, ...) {
  va_list a;
  va_start(a, form);
  int count = vscanf(form, a);
  va_end(a);
  return count;
}
C
  cc -O2 -fPIC -c "$work/isoc23.c" -o "$work/isoc23.o"

  unpacked=$work/root/usr/lib/llvm-$llvm
  libraries=$("$unpacked/bin/llvm-config" --link-static --libs core nvptx x86 passes bitreader bitwriter linker irreader orcjit \
    mcjit executionengine analysis ipo instrumentation target transformutils objcarcopts)
  # Beside its place, then moved there: a broken run leaves no half of a bundle.
  fresh=$bundle.fresh
  rm -rf "$fresh"
  mkdir -p "$fresh/bin" "$fresh/lib" "$fresh/include"
  for library in $libraries; do cp "$unpacked/lib/lib${library#-l}.a" "$fresh/lib/"; done
  cp "$work"/root/usr/lib/x86_64-linux-gnu/libz.a "$work"/root/usr/lib/x86_64-linux-gnu/libzstd.a "$fresh/lib/"
  ar rcs "$fresh/lib/libisoc23.a" "$work/isoc23.o"
  # Found before the system's libstdc++.so: the program carries its C++ runtime.
  cp "$(g++ -print-file-name=libstdc++.a)" "$fresh/lib/"
  cp -rL "$unpacked/include/llvm" "$unpacked/include/llvm-c" "$fresh/include/"
  # Only the two targets whose libraries were kept.
  for list in "$fresh"/include/llvm/Config/*.def; do
    sed -i -E '/^LLVM_[A-Z_]+\((NVPTX|X86)\)/!{/^LLVM_[A-Z_]+\([A-Za-z0-9]+\)$/d}' "$list"
  done
  cat > "$fresh/bin/llvm-config" <<C
#!/bin/sh
# Stands for llvm-config --link-static OPTION.
for option; do
  case \$option in
    --link-static) ;;
    --version) echo $("$unpacked/bin/llvm-config" --version) ;;
    --prefix) echo "$bundle" ;;
    --libdir) echo "$bundle/lib" ;;
    --includedir) echo "$bundle/include" ;;
    --cxxflags) echo "-I$bundle/include -std=c++17 -D_GNU_SOURCE -D__STDC_CONSTANT_MACROS -D__STDC_FORMAT_MACROS -D__STDC_LIMIT_MACROS -fno-exceptions -fno-rtti" ;;
    --cflags) echo "-I$bundle/include -D_GNU_SOURCE -D__STDC_CONSTANT_MACROS -D__STDC_FORMAT_MACROS -D__STDC_LIMIT_MACROS" ;;
    --libs) echo "$libraries -lzstd -lz -lisoc23" ;;
    --libnames) for library in $libraries; do printf 'lib%s.a ' "\${library#-l}"; done; echo ;;
    --system-libs) echo "-lrt -ldl -lm" ;;
    *) echo "llvm-config: \$option is not known here" >&2; exit 1 ;;
  esac
done
C
  chmod +x "$fresh/bin/llvm-config"
  touch "$fresh/.tracel-llvm-installed"
  rm -rf "$bundle"
  mv "$fresh" "$bundle"
}

# The math functions that PTX has no instruction for.
lay_libdevice() {
  mkdir -p "$carry/cuda/nvvm/libdevice" "$work/wheels"
  python3 -m pip download -q --no-deps --only-binary=:all: -d "$work/wheels" 'nvidia-nvvm==13.*'
  python3 - "$work/wheels" "$carry/cuda/nvvm/libdevice/libdevice.10.bc" <<'P'
import os
import sys
import zipfile
from pathlib import Path

wheel = zipfile.ZipFile(sorted(Path(sys.argv[1]).glob("nvidia_nvvm-*.whl"))[-1])
name = next(name for name in wheel.namelist() if name.endswith("nvvm/libdevice/libdevice.10.bc"))
target = Path(sys.argv[2])
part = target.with_suffix(".part")
part.write_bytes(wheel.read(name))
os.replace(part, target)
P
}

[ -e "$bundle/.tracel-llvm-installed" ] || lay_llvm
[ -e "$carry/cuda/nvvm/libdevice/libdevice.10.bc" ] || lay_libdevice
[ -n "$name" ] || exit 0

if [ -e "examples/$name.rs" ] || [ -e "examples/$name/main.rs" ]; then
  cargo build --release --features "$features" --example "$name"
  built=$target/release/examples/$name
else
  cargo build --release --features "$features" --bin "$name"
  built=$target/release/$name
fi
strip -o "$carry/$name" "$built"
gzip -6 -c "$carry/$name" > "$carry/$name.gz"
rm "$carry/$name"
ls -l "$carry/$name.gz"
