//! Devices by name. Back ends are named here and in `kernels` alone.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

use crate::error::Error;

/// A device of a recipe: `auto`, `cpu`, or a GPU kind with an optional index (`cuda:1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceName {
    kind: Kind,
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Auto,
    Cpu,
    Cuda,
    Rocm,
    Wgpu,
    Vulkan,
    Metal,
}

const KINDS: [(&str, Kind); 7] = [
    ("auto", Kind::Auto),
    ("cpu", Kind::Cpu),
    ("cuda", Kind::Cuda),
    ("rocm", Kind::Rocm),
    ("wgpu", Kind::Wgpu),
    ("vulkan", Kind::Vulkan),
    ("metal", Kind::Metal),
];

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::Device {
            device: text.into(),
            message: "write auto, cpu, cuda, rocm, wgpu, vulkan or metal, with an index as in cuda:1".into(),
        };
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let kind = KINDS.iter().find(|(name, _)| *name == kind).ok_or_else(refuse)?.1;
        Ok(Self { kind, index: index.parse().map_err(|_| refuse())? })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("auto", |(name, _)| *name);
        if self.index == 0 { f.write_str(name) } else { write!(f, "{name}:{}", self.index) }
    }
}

impl DeviceName {
    /// The CPU.
    pub fn cpu() -> Self {
        Self { kind: Kind::Cpu, index: 0 }
    }

    /// Opens the device. `auto` is the first GPU that this build was made for, else the CPU.
    pub fn open(self) -> Result<Device, Error> {
        match self.kind {
            #[cfg(feature = "cuda")]
            Kind::Cuda | Kind::Auto => {
                let found = cuda_devices();
                if self.index >= found {
                    let message =
                        format!("{found} CUDA devices were found\n  hint: run.device = \"cpu\" needs none");
                    return Err(Error::Device { device: self.to_string(), message });
                }
                Ok(Device::cuda(self.index))
            }
            #[cfg(feature = "rocm")]
            Kind::Rocm => Ok(Device::rocm(self.index)),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::default())),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::default())),
            #[cfg(feature = "metal")]
            Kind::Metal => Ok(Device::metal(burn::tensor::DeviceKind::default())),
            #[cfg(feature = "flex")]
            Kind::Cpu => Ok(Device::flex()),
            #[cfg(all(feature = "flex", not(feature = "cuda")))]
            Kind::Auto => Ok(Device::flex()),
            #[allow(unreachable_patterns, reason = "which kinds are left depends on the features")]
            kind => {
                let name = KINDS.iter().find(|(_, other)| *other == kind).map_or("flex", |(name, _)| *name);
                let message =
                    format!("this build has no support for it\n  hint: build with --features {name}");
                Err(Error::Device { device: self.to_string(), message })
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    use burn::tensor::DeviceType;
    let _ = burn_cuda::CudaDevice::default();
    Device::enumerate(DeviceType::Cuda).into_vec().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_nonsense_is_refused() {
        for text in ["auto", "cpu", "cuda:1", "wgpu"] {
            assert_eq!(text.parse::<DeviceName>().expect("a device").to_string(), text);
        }
        for text in ["", "gpu", "cuda:x", "cuda:"] {
            let error = text.parse::<DeviceName>().expect_err("not a device").to_string();
            assert!(error.contains("write auto, cpu"), "{error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_of_another_build_names_the_feature() {
        let error = "cuda".parse::<DeviceName>().and_then(DeviceName::open).expect_err("no CUDA here");
        assert!(error.to_string().contains("--features cuda"), "{error}");
    }
}
