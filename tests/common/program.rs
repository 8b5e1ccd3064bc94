//! Runs `examples/generate` as a user does: a process of its own, in a folder of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// The program `generate`.
pub fn program() -> PathBuf {
    example("generate")
}

/// A program: cargo builds examples before it runs tests, and puts them beside the folder of the test programs.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let program = folder.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{} is not there; `cargo test` without --test builds it, or `cargo build --release --example {name}`",
        program.display()
    );
    program
}

/// Variables that tell the program of a model, or of a network. The tests must not see those of this machine.
const VARIABLES: &[&str] = &[
    "AE",
    "FLUX_DEV",
    "FLUX_DEV_FP8",
    "FLUX_SCHNELL",
    "T5",
    "CLIP",
    "LORA",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HUGGING_FACE_HUB_TOKEN",
    "TRANSFORMERS_OFFLINE",
    "XDG_CACHE_HOME",
    "RUST_BACKTRACE",
];

/// Where results go unless the test says otherwise.
pub const OUT: &str = "out";

/// A working folder, gone when the test ends.
pub struct Desk(tempfile::TempDir);

/// What a run left behind.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Desk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A desk with a copy of the small random model in the folder `model`.
    pub fn with_model() -> Self {
        Self::with_copy_of("tiny")
    }

    /// A desk with a copy of a model of `uno-models/assets` in the folder `model`.
    pub fn with_copy_of(name: &str) -> Self {
        let desk = Self::new();
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("uno-models/assets");
        copy_folder(&assets.join(name), &desk.path("model"));
        desk
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// A picture that was made.
    pub fn picture(&self, name: &str) -> image::RgbImage {
        image::load_from_memory(&self.read(name)).unwrap_or_else(|e| panic!("{name}: {e}")).into_rgb8()
    }

    /// A picture with many colours, to be a reference.
    pub fn draw(&self, name: &str, width: u32, height: u32) {
        let pixels = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x / 8 + y / 8) % 2 * 200) as u8])
        });
        pixels.save(self.path(name)).unwrap();
    }

    /// Names of all files below a folder, hidden and temporary ones too; none if there is no folder.
    pub fn files(&self, folder: &str) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, names: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, root, names),
                    false => names.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned()),
                }
            }
        }
        let (root, mut names) = (self.path(folder), Vec::new());
        walk(&root, &root, &mut names);
        names.sort();
        names
    }

    /// The program with exactly these arguments, in this folder and an environment without any model.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        for name in VARIABLES {
            command.env_remove(name);
        }
        // A cache of the hub that the machine may have is not looked at.
        command.env("HF_HOME", self.path("no hub")).env("HF_HUB_OFFLINE", "1");
        command
    }

    /// [`Desk::command`] for a small picture: prompt, size, steps and folder are filled in where `arguments` lack them.
    pub fn small(&self, arguments: &[&str]) -> Command {
        let has = |name: &str| {
            let same = |a: &&str| {
                a.split('=').next().unwrap_or_default().replace('-', "_") == name.replace('-', "_")
            };
            arguments.iter().any(same)
        };
        let mut all = arguments.to_vec();
        let made_again = has("--from");
        for (name, value) in [("--width", "64"), ("--height", "64"), ("--num_steps", "2")] {
            if !has(name) && !made_again {
                all.extend([name, value]);
            }
        }
        if !has("--prompt") && !has("--eval_json_path") && !made_again {
            all.extend(["--prompt", "a robot beside a teapot"]);
        }
        if !has("--save_path") {
            all.extend(["--save_path", OUT]);
        }
        self.command(&all)
    }

    /// Runs a small picture; the arguments are separated by spaces.
    pub fn run(&self, arguments: &str) -> Run {
        self.run_with(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a small picture, with arguments that may hold spaces.
    pub fn run_with(&self, arguments: &[&str]) -> Run {
        self.small(arguments).output().unwrap().into()
    }

    /// Runs what must succeed.
    #[track_caller]
    pub fn made(&self, arguments: &str) -> Run {
        self.run(arguments).succeeded()
    }

    /// Runs what must succeed with the least memory that it takes, in steps of 15 MiB, and returns that: a picture of 512x512
    /// pixels is decoded in tiles then, however much the process takes by itself.
    #[track_caller]
    pub fn made_in_least_memory(&self, arguments: &str) -> String {
        let sizes = (100..1000).step_by(15).map(|mebibytes| format!("--memory {mebibytes}MiB"));
        let fits = |memory: &String| self.run(&format!("{arguments} {memory}")).code == Some(0);
        sizes.into_iter().find(fits).expect("a memory that fits")
    }

    /// Rewrites a safetensors file after `change` has changed its tensors.
    pub fn change_tensors(&self, name: &str, change: impl FnOnce(&mut Tensors)) {
        let bytes = self.read(name);
        let mut tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let (dtype, shape) = (view.dtype(), view.shape().to_vec());
                (name.to_owned(), RawTensor { dtype, shape, data: view.data().to_vec() })
            })
            .collect();
        change(&mut tensors);
        self.put(name, serialized(&tensors));
    }
}

impl Run {
    /// Fails unless the program succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "the program failed: {}", self.stderr);
        self
    }

    /// Fails unless standard error holds `words`.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in: {}", self.stderr);
        self
    }

    /// Fails unless the program refused its input: with an error of its own that holds all of `words`, and no result.
    #[track_caller]
    pub fn refused(self, desk: &Desk, words: &[&str]) -> Self {
        println!(
            "{}",
            self.stderr.lines().skip_while(|line| !line.starts_with("error: ")).collect::<String>()
        );
        // 1 is an error of the program, 2 one in its arguments; 101 would be a panic, None a signal.
        assert!(matches!(self.code, Some(1 | 2)), "exit code {:?}: {}", self.code, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let error = self.stderr.split_once("error: ").map_or("", |(_, error)| error);
        for word in words {
            assert!(error.contains(word), "{word:?} is not in the error: {}", self.stderr);
        }
        assert_eq!(self.stdout, "", "a refused run has no results");
        assert_eq!(desk.files(OUT), [""; 0], "a refused run writes nothing");
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A tensor as a safetensors file has it.
#[derive(Clone)]
pub struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

pub type Tensors = BTreeMap<String, RawTensor>;

/// The bytes of a safetensors file.
pub fn serialized(tensors: &Tensors) -> Vec<u8> {
    fn view(t: &RawTensor) -> TensorView<'_> {
        TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()
    }
    let views: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), view(t))).collect();
    safetensors::serialize(views, None).unwrap()
}

/// The chunks of a PNG, in order: kind and data. Read by hand, so that it is the file that is looked at and not what the
/// program's own reader makes of it.
pub fn png_chunks(png: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    let (mut rest, mut chunks) = (&png[8..], Vec::new());
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        chunks.push((String::from_utf8(tail[..4].to_vec()).unwrap(), tail[4..4 + length].to_vec()));
        rest = &tail[4 + length + 4..];
    }
    chunks
}

/// The text chunks of a PNG: keyword to text. Uncompressed UTF-8 ones (iTXt), as the program writes them.
pub fn png_texts(png: &[u8]) -> BTreeMap<String, String> {
    let text = |data: Vec<u8>| {
        let fields: Vec<&[u8]> = data.splitn(2, |b| *b == 0).collect();
        assert_eq!(&fields[1][..2], [0, 0], "not compressed");
        // Behind the two flags: language, translated keyword, text.
        let value = fields[1][2..].splitn(3, |b| *b == 0).nth(2).unwrap().to_vec();
        (String::from_utf8(fields[0].to_vec()).unwrap(), String::from_utf8(value).unwrap())
    };
    png_chunks(png).into_iter().filter(|(kind, _)| kind == "iTXt").map(|(_, data)| text(data)).collect()
}

/// A PNG that claims `width` x `height` 8-bit RGB pixels and holds none, with sound checksums.
pub fn png_that_claims(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    // The zlib stream of nothing.
    let nothing = [0x78, 0x9c, 0x03, 0, 0, 0, 0, 1];
    for (kind, data) in [(b"IHDR", &header[..]), (b"IDAT", &nothing[..]), (b"IEND", &[])] {
        let body = [kind, data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&body);
        png.extend(crc32(&body).to_be_bytes());
    }
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}
