//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::FloatDType;
use clap::{Parser, ValueEnum};
use uno_models::checkpoint::CheckpointOptions;
use uno_models::memory::Budget;
use uno_models::request::{MAX_SIDE, MAX_STEPS};

/// The variable of the environment with the token, which others cannot read as they can a command line.
const TOKEN_VARIABLE: &str = "UNO_WEB_TOKEN";

/// UNO in the browser and over HTTP: a page, an API and a queue that survives restarts (docs/serving.md).
///
/// Dashes and underscores in names are the same. Without a model (no --model, no single file, no environment variable) the small
/// one inside the program is served.
#[derive(Parser, Debug)]
#[command(version, next_line_help = false)]
pub struct Arguments {
    /// The address to listen on; beyond this machine (0.0.0.0, ::) only with a token
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: IpAddr,
    /// The port; 0 is any that is free
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// What clients have to send as `Authorization: Bearer TOKEN`; better given in UNO_WEB_TOKEN, since command lines are seen by
    /// other users of the machine
    #[arg(long)]
    pub token: Option<Token>,
    /// A name under which this server is reached, beside localhost and addresses of numbers; may be given several times
    #[arg(long, num_args = 1, value_name = "NAME")]
    pub allow_host: Vec<HostName>,
    /// Folder for the database, references and pictures; of one server at a time
    #[arg(long, default_value = "output/web", value_name = "DIR")]
    pub data: PathBuf,
    /// Start on pictures whose database is lost or older than they are: make the history anew from the settings beside them
    #[arg(long)]
    pub rebuild: bool,
    /// Write a copy of the database to FILE and end; a server may be at work with it (docs/serving.md)
    #[arg(long, value_name = "FILE", conflicts_with = "rebuild")]
    pub backup: Option<PathBuf>,
    /// When it is stopped, seconds that the picture under way gets to be finished
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub grace: u64,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogForm::Text, value_name = "FORM")]
    pub log: LogForm,

    /// Most jobs that wait
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Limits")]
    pub queue: u32,
    /// Most references of a job
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=16), help_heading = "Limits")]
    pub max_references: u32,
    /// Longest side of a picture and of its references as the model sees them, in pixels
    #[arg(
        long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=MAX_SIDE as i64),
        help_heading = "Limits"
    )]
    pub max_side: u32,
    /// Most pixels of a picture
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(256..), help_heading = "Limits")]
    pub max_pixels: u32,
    /// Most steps
    #[arg(
        long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=MAX_STEPS as i64),
        help_heading = "Limits"
    )]
    pub max_steps: u32,
    /// Most pictures of a job
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Limits")]
    pub max_images: u32,
    /// Largest file of a reference: bytes, or a number with KiB, MiB or GiB
    #[arg(long, default_value = "20MiB", value_name = "SIZE", help_heading = "Limits")]
    pub max_upload: Bytes,
    /// Most connections of one address (0: any number), also of those of this machine; by default 128 of each address of other
    /// machines
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    pub max_connections_per_address: Option<u32>,

    /// Folder of the model
    #[arg(long, value_name = "DIR", help_heading = "Model")]
    pub model: Option<PathBuf>,
    /// The transformer's file (or FLUX_DEV, FLUX_DEV_FP8, FLUX_SCHNELL)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub dit: Option<PathBuf>,
    /// The autoencoder's file (or AE)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub ae: Option<PathBuf>,
    /// T5's file or folder (or T5)
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub t5: Option<PathBuf>,
    /// CLIP's file or folder (or CLIP)
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub clip: Option<PathBuf>,
    /// T5's vocabulary, where it is not beside the weights
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub t5_tokenizer: Option<PathBuf>,
    /// CLIP's vocabulary, where it is not beside the weights
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub clip_tokenizer: Option<PathBuf>,
    /// UNO's LoRA (or LORA)
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub lora: Option<PathBuf>,
    /// Factor on UNO's LoRA where a job names none; 0 serves plain FLUX, without the LoRA
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, help_heading = "Model")]
    pub lora_scale: f64,
    /// A further LoRA that jobs may use, with the name that they use it by and its factor where they name none; may be given
    /// several times
    #[arg(long, num_args = 1, value_name = "NAME=PATH[@SCALE]", help_heading = "Model")]
    pub add_lora: Vec<AddedLora>,
    /// Fetch what is missing from the Hugging Face hub (up to 37 GB, kept in HF_HOME)
    #[arg(long, help_heading = "Model")]
    pub download: bool,

    /// cpu, cuda, cuda:1, vulkan, wgpu, metal, rocm or auto, as far as they are built in
    #[arg(long, default_value = "cpu", help_heading = "Computation")]
    pub device: String,
    /// Number format of transformer and text encoders; by default f32 on the CPU, bf16 on CUDA, f16 on other GPUs
    #[arg(long, value_enum, help_heading = "Computation")]
    pub dtype: Option<Dtype>,
    /// Most memory to use: a size such as 6GiB, auto (what is free when the server starts), or least
    #[arg(long, default_value_t = Budget::Auto, value_name = "SIZE", help_heading = "Computation")]
    pub memory: Budget,
    /// Threads of the CPU; by default all
    #[arg(long, help_heading = "Computation")]
    pub threads: Option<NonZero<usize>>,
}

/// A secret, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(<secret>)")
    }
}

impl FromStr for Token {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()),
            "wanted letters, digits and signs of ASCII without spaces, at least one (openssl rand -hex 16 makes a good token)"
        );
        Ok(Self(text.to_owned()))
    }
}

/// A name of a machine, as it stands in `Host`, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(pub String);

impl FromStr for HostName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        ensure!(
            !text.is_empty() && text.bytes().all(is_name),
            "wanted a name such as pictures.example.org, without a scheme and a port"
        );
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => bail!("wanted bytes, or a number with KiB, MiB or GiB, such as 20MiB"),
        };
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        let bytes = bytes.filter(|bytes| (1..=1 << 30).contains(bytes));
        bytes.map(Self).context("wanted 1 byte to 1 GiB, such as 20MiB")
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    Text,
    Json,
}

/// Number format of transformer and text encoders.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub fn float(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

/// A LoRA by name: its file, and its factor.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedLora {
    pub name: String,
    pub path: PathBuf,
    pub scale: f64,
}

impl FromStr for AddedLora {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = "wanted NAME=FILE or NAME=FILE@SCALE, such as style=style.safetensors@0.8";
        let (name, file) = text.split_once('=').context(wanted)?;
        let is_name = |c: char| c.is_alphanumeric() || "-_. ".contains(c);
        ensure!(
            !name.trim().is_empty() && name.trim() == name && name.chars().all(is_name),
            "{name:?}: a name is of letters, digits, spaces, dots, dashes and underscores; {wanted}"
        );
        // A file whose own name ends in @ and a number is meant if it is there.
        let split = file.rsplit_once('@').filter(|_| !Path::new(file).exists());
        let (path, scale) = match split.map(|(path, scale)| (path, scale.parse::<f64>())) {
            Some((path, Ok(scale))) => (path, scale),
            Some((_, Err(_))) if !file.ends_with(".safetensors") => {
                bail!("{file:?}: what follows @ is no number; {wanted}")
            }
            _ => (file, 1.0),
        };
        ensure!(!path.is_empty() && scale.is_finite(), "{file:?}: {wanted}");
        Ok(Self { name: name.to_owned(), path: path.into(), scale })
    }
}

impl Arguments {
    /// The token: as given, else of the environment.
    pub fn token(&self) -> Result<Option<Token>> {
        match (&self.token, std::env::var(TOKEN_VARIABLE)) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Ok(text)) => Ok(Some(text.parse().context(TOKEN_VARIABLE)?)),
            (None, Err(std::env::VarError::NotPresent)) => Ok(None),
            (None, Err(error)) => Err(error).context(TOKEN_VARIABLE),
        }
    }

    /// The address to listen on.
    ///
    /// # Errors
    ///
    /// One that other machines reach, without a token.
    pub fn address(&self, token: Option<&Token>) -> Result<SocketAddr> {
        let host = self.host;
        ensure!(
            host.is_loopback() || token.is_some(),
            "--host {host}: others reach this address, and there is no token: anybody could make pictures and see those of \
             everybody; set {TOKEN_VARIABLE}, or leave out --host to listen on this machine only"
        );
        Ok(SocketAddr::new(host, self.port))
    }

    /// Where the model is to be looked for.
    pub fn checkpoint(&self) -> CheckpointOptions {
        CheckpointOptions {
            model_dir: self.model.clone(),
            dit: self.dit.clone(),
            ae: self.ae.clone(),
            t5: self.t5.clone(),
            clip: self.clip.clone(),
            t5_tokenizer: self.t5_tokenizer.clone(),
            clip_tokenizer: self.clip_tokenizer.clone(),
            lora: self.lora.clone(),
            use_lora: self.lora_scale != 0.0,
            allow_download: self.download,
            ..CheckpointOptions::default()
        }
    }
}

/// `--max_side` for `--max-side`: clap's names have dashes, those of the other programs underscores.
pub fn with_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    arguments
        .map(|argument| match argument.to_str() {
            Some(text) if text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                format!("{}{value}", name.replace('_', "-")).into()
            }
            _ => argument,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments> {
        let all = std::iter::once("uno-web").chain(arguments.iter().copied()).map(OsString::from);
        Ok(Arguments::try_parse_from(with_dashes(all))?)
    }

    #[test]
    fn names_take_underscores_and_dashes() {
        let arguments =
            parse(&["--max_side", "512", "--max-steps=7", "--add_lora", "my_style=a_b.safetensors@0.5"])
                .unwrap();
        assert_eq!((arguments.max_side, arguments.max_steps), (512, 7));
        let lora = AddedLora { name: "my_style".into(), path: "a_b.safetensors".into(), scale: 0.5 };
        assert_eq!(arguments.add_lora, [lora]);
    }

    #[test]
    fn other_machines_reach_nothing_without_a_token() {
        let token: Token = "secret".parse().unwrap();
        for host in ["0.0.0.0", "::", "192.168.1.5"] {
            let arguments = parse(&["--host", host]).unwrap();
            let error = arguments.address(None).unwrap_err().to_string();
            assert!(error.contains("UNO_WEB_TOKEN") && error.contains(host), "{error}");
            assert!(arguments.address(Some(&token)).is_ok());
        }
        for host in ["127.0.0.1", "127.1.2.3", "::1"] {
            assert!(parse(&["--host", host]).unwrap().address(None).is_ok());
        }
    }

    #[test]
    fn tokens_are_not_shown_and_never_empty() {
        let arguments = parse(&["--token", "open-sesame"]).unwrap();
        assert!(!format!("{arguments:?}").contains("sesame"));
        for token in ["", "two words", "umläut"] {
            assert!(parse(&["--token", token]).is_err(), "{token:?}");
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for arguments in [
            ["--queue", "0"],
            ["--max_steps", "0"],
            ["--max_side", "15"],
            ["--max_upload", "0"],
            ["--max_upload", "2TiB"],
            ["--max_upload", "99999999999GiB"],
            ["--allow_host", "http://example.org"],
            ["--add_lora", "style.safetensors"],
            ["--add_lora", "=style.safetensors"],
            ["--add_lora", "a=style@x"],
            ["--add_lora", "a="],
            ["--host", "example.org"],
            ["--memory", "much"],
        ] {
            assert!(parse(&arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("20MiB", 20 << 20), ("1024", 1024), ("3 kib", 3072), ("1G", 1 << 30)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }
}
