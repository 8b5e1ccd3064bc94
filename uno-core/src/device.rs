//! Devices by name, and how models compute on each kind of them.

use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, FloatDType, Tensor};

use crate::error::{Error, Result};
use crate::weights::Storage;

/// Names of the backends that this build contains, as [`open`] takes them.
pub const BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "cpu",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
    #[cfg(feature = "metal")]
    "metal",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// A kind of device. It decides how models compute there, whatever name the device was asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The processor.
    Cpu,
    /// NVIDIA's GPUs.
    Cuda,
    /// AMD's GPUs.
    Rocm,
    /// Apple's GPUs.
    Metal,
    /// GPUs with a Vulkan driver.
    Vulkan,
    /// GPUs through wgpu's own choice of a driver.
    Wgpu,
}

impl Backend {
    /// All of them, whether or not this build contains them.
    pub const ALL: [Self; 6] = [Self::Cpu, Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Wgpu];

    /// Its name, as [`open`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// The number format of transformer and text encoders where none is asked for.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::Cpu => FloatDType::F32,
            Self::Cuda | Self::Rocm => FloatDType::BF16,
            Self::Metal | Self::Vulkan | Self::Wgpu => FloatDType::F16,
        }
    }

    /// The form that matrices wait in: the CPU reads them where they are mapped, a GPU holds them in the compute format.
    pub fn storage(self) -> Storage {
        match self {
            Self::Cpu => Storage::AsStored,
            _ => Storage::Expanded,
        }
    }
}

/// A device that was opened. It is shown by the name that opens the same one again: `cpu`, `cuda`, `cuda:1`.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Its kind.
    pub backend: Backend,
    /// Which one of its kind, from 0.
    pub index: u32,
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend.name())?;
        if self.index > 0 { write!(f, ":{}", self.index) } else { Ok(()) }
    }
}

/// Opens a device: [`open_named`], where its kind is of no interest.
///
/// # Errors
///
/// As [`open_named`].
pub fn open(name: &str) -> Result<Device> {
    Ok(open_named(name)?.device)
}

/// Opens a device: `cpu`, `cuda`, `cuda:1`, `vulkan`, `wgpu`, `metal` or `rocm`, in capitals or not; `flex` is the CPU; `auto` takes
/// the first GPU backend that this build contains, else the CPU. A small computation shows that it works.
///
/// # Errors
///
/// A name that is not known, a backend that this build lacks, or a device that does not answer (no driver, no such GPU).
pub fn open_named(name: &str) -> Result<Opened> {
    let error = |reason: String| Error::Device { name: name.to_owned(), reason };
    let lower = name.to_ascii_lowercase();
    let (kind, index) = match lower.split_once(':') {
        Some((kind, index)) => {
            let index: u32 = index
                .parse()
                .map_err(|_| error(format!("{index:?} is no device number; wanted for example cuda:0")))?;
            (kind, index)
        }
        None => (lower.as_str(), 0),
    };
    let kind = match kind {
        "auto" => BACKENDS.iter().copied().find(|k| *k != "cpu").unwrap_or("cpu"),
        "flex" => "cpu",
        kind => kind,
    };
    let known = Backend::ALL.into_iter().find(|backend| backend.name() == kind);
    let Some(backend) = known.filter(|_| BACKENDS.contains(&kind)) else {
        let remedy = match known {
            Some(_) => format!("this build lacks it; build with `--features {kind}`"),
            None => "no such backend".into(),
        };
        return Err(error(format!("{remedy}; this build has: {}", BACKENDS.join(", "))));
    };
    if backend == Backend::Cpu && index != 0 {
        return Err(error("there is one CPU device; wanted cpu".into()));
    }
    // Drivers that are missing make the backends panic deep inside; that must not end the program.
    let (opened, reasons) = noting_panics_of_backends(|| {
        let device = construct(backend, index)?;
        let sum = Tensor::<1>::ones([2], &device).sum().try_into_scalar::<f32>().ok()?;
        (sum == 2.0).then_some(device)
    });
    match opened {
        Some(Some(device)) => Ok(Opened { device, backend, index }),
        Some(None) => Err(error("it does not compute; check its driver".into())),
        None => {
            let reason = reasons.first().map_or("no reason given", String::as_str);
            Err(error(format!("it cannot be opened ({reason}); check that there is one, and its driver")))
        }
    }
}

/// Runs `f`; panics in the crates of GPU backends, on whichever thread, are not printed but returned, the first first.
fn noting_panics_of_backends<T>(f: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let usual: Arc<dyn Fn(&PanicHookInfo<'_>) + Send + Sync> = std::panic::take_hook().into();
    let (noted, others) = (reasons.clone(), usual.clone());
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map_or("", |location| location.file());
        let is_backend =
            |part: &str| ["cubecl", "burn", "wgpu", "cudarc"].iter().any(|name| part.starts_with(name));
        if !place.split(['/', '\\']).any(is_backend) {
            return others(info);
        }
        let text = info.payload_as_str().unwrap_or("no reason given");
        let first_line = text.lines().next().unwrap_or_default().to_owned();
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(first_line);
    }));
    let result = std::panic::catch_unwind(AssertUnwindSafe(f));
    std::panic::set_hook(Box::new(move |info| usual(info)));
    drop(one_at_a_time);
    let reasons = std::mem::take(&mut *reasons.lock().unwrap_or_else(PoisonError::into_inner));
    (result.ok(), reasons)
}

/// Whether a device computes on the processor, in this process' memory.
pub fn is_cpu(device: &Device) -> bool {
    Some(device) == crate::kernels::cpu().as_ref()
}

/// Whether `device` computes in `dtype`.
///
/// # Errors
///
/// It does not: with the formats that it has.
pub fn check_dtype(device: &Device, dtype: FloatDType) -> Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    let formats = [(FloatDType::F32, "f32"), (FloatDType::BF16, "bf16"), (FloatDType::F16, "f16")];
    let there = formats.iter().filter(|(dtype, _)| device.supports_dtype(*dtype));
    let there: Vec<&str> = there.map(|(_, name)| *name).collect();
    let got = format!("{dtype:?}").to_lowercase();
    let wanted = format!("{}: {device:?} does not compute in {got}", there.join(" or "));
    Err(Error::invalid("dtype", got, wanted))
}

#[allow(unused_variables)]
fn construct(backend: Backend, index: u32) -> Option<Device> {
    #[cfg(any(feature = "vulkan", feature = "wgpu", feature = "metal"))]
    let gpu = match index {
        0 => burn::tensor::DeviceKind::DefaultDevice,
        n => burn::tensor::DeviceKind::DiscreteGpu(n as usize),
    };
    match backend {
        #[cfg(feature = "flex")]
        Backend::Cpu => Some(Device::flex()),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Some(Device::cuda(index as usize)),
        #[cfg(feature = "rocm")]
        Backend::Rocm => Some(Device::rocm(index as usize)),
        #[cfg(feature = "metal")]
        Backend::Metal => Some(Device::metal(gpu)),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => Some(Device::vulkan(gpu)),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Some(Device::wgpu(gpu)),
        // Which of them a build lacks depends on its features.
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_opens_and_others_are_refused_with_what_there_is() {
        assert!(open("cpu").is_ok());
        for name in ["tpu", "cpu:1", "cuda:x", ""] {
            assert!(open(name).is_err(), "{name}");
        }
        assert!(open("tpu").unwrap_err().to_string().contains("cpu"));
    }

    #[test]
    fn number_format_and_storage_follow_from_the_kind_of_device() {
        for (backend, dtype, storage) in [
            (Backend::Cpu, FloatDType::F32, Storage::AsStored),
            (Backend::Cuda, FloatDType::BF16, Storage::Expanded),
            (Backend::Rocm, FloatDType::BF16, Storage::Expanded),
            (Backend::Metal, FloatDType::F16, Storage::Expanded),
            (Backend::Vulkan, FloatDType::F16, Storage::Expanded),
            (Backend::Wgpu, FloatDType::F16, Storage::Expanded),
        ] {
            assert_eq!((backend.dtype(), backend.storage()), (dtype, storage), "{}", backend.name());
        }
        assert!(BACKENDS.iter().all(|name| Backend::ALL.iter().any(|backend| backend.name() == *name)));
    }

    #[test]
    fn a_device_is_known_by_what_it_is_and_not_by_the_name_that_was_typed() {
        let mut names = vec!["cpu", "CPU", "Flex", "cpu:0"];
        if BACKENDS == ["cpu"] {
            names.push("auto");
        }
        for name in names {
            let opened = open_named(name).unwrap();
            assert_eq!((opened.backend, opened.to_string().as_str()), (Backend::Cpu, "cpu"), "{name}");
        }
        let second = Opened { backend: Backend::Cuda, index: 1, ..open_named("cpu").unwrap() };
        assert_eq!(second.to_string(), "cuda:1");
    }
}
