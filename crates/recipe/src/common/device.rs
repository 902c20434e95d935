//! `device = "cuda:1"`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::name::NameError;
use crate::suggest;

/// Where tensors live: a kind, and for accelerators which one of them, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device {
    kind: DeviceKind,
    index: Option<usize>,
}

/// The kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceKind {
    /// The best one that the program was built for and that the machine has.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// NVIDIA.
    Cuda,
    /// Any graphics card, through WebGPU.
    Wgpu,
    /// Any graphics card, through Vulkan.
    Vulkan,
    /// Apple.
    Metal,
    /// AMD.
    Rocm,
}

impl DeviceKind {
    /// Every kind, as listed to users.
    pub const ALL: [Self; 7] =
        [Self::Auto, Self::Cpu, Self::Cuda, Self::Wgpu, Self::Vulkan, Self::Metal, Self::Rocm];

    /// The name a recipe writes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Rocm => "rocm",
        }
    }

    /// Whether a machine may have several of them.
    fn is_accelerator(self) -> bool {
        !matches!(self, Self::Auto | Self::Cpu)
    }
}

impl Device {
    /// The first device of a kind, unless the backend prefers another.
    pub fn new(kind: DeviceKind) -> Self {
        Self { kind, index: None }
    }

    /// The kind of device.
    pub fn kind(self) -> DeviceKind {
        self.kind
    }

    /// Which device of that kind, from 0; `None` leaves the choice to the backend, and is all that `auto` and
    /// `cpu` have.
    pub fn index(self) -> Option<usize> {
        self.index
    }
}

impl FromStr for Device {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, index) = text.split_once(':').map_or((text, None), |(name, index)| (name, Some(index)));
        let Some(kind) = DeviceKind::ALL.into_iter().find(|kind| kind.name() == name) else {
            let hint = suggest::hint(name, &DeviceKind::ALL.map(DeviceKind::name), "one of");
            return Err(NameError::new(format!("unknown device `{text}`"), hint));
        };
        let Some(index) = index else { return Ok(Self::new(kind)) };
        if !kind.is_accelerator() {
            let hint = Some(format!("write `{name}`"));
            return Err(NameError::new(format!("device `{text}`: `{name}` takes no index"), hint));
        }
        let index = index.parse().map_err(|_| {
            let hint = Some(format!("write `{name}:0` for the first device"));
            NameError::new(format!("device `{text}`: `{index}` is not an index"), hint)
        })?;
        Ok(Self { kind, index: Some(index) })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        self.index.map_or(Ok(()), |index| write!(f, ":{index}"))
    }
}

impl TryFrom<String> for Device {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl JsonSchema for Device {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let mut schema = crate::schema::string_schema(
            "Where tensors live: auto, cpu, or cuda, wgpu, vulkan, metal, rocm, each with an optional `:index`.",
            "auto",
        );
        schema.insert("pattern".into(), "^(auto|cpu|(cuda|wgpu|vulkan|metal|rocm)(:[0-9]+)?)$".into());
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_parse_and_print_alike() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "wgpu:3", "vulkan", "metal", "rocm:12"] {
            assert_eq!(text.parse::<Device>().expect(text).to_string(), text);
        }
        let device: Device = "cuda:2".parse().expect("a device");
        assert_eq!((device.kind(), device.index()), (DeviceKind::Cuda, Some(2)));
    }

    #[test]
    fn mistakes_are_named() {
        let said = |text: &str| text.parse::<Device>().expect_err(text).to_string();
        let all = "auto, cpu, cuda, wgpu, vulkan, metal, rocm";
        assert_eq!(
            said("cdua"),
            format!("unknown device `cdua`\nhint: did you mean `cuda`? (one of: {all})")
        );
        assert_eq!(said("cpu:0"), "device `cpu:0`: `cpu` takes no index\nhint: write `cpu`");
        assert_eq!(
            said("cuda:x"),
            "device `cuda:x`: `x` is not an index\nhint: write `cuda:0` for the first device"
        );
    }
}
