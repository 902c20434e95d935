//! Safetensors files: one or sharded, in f32, bf16 or f16.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::config::{read_json, regular};
use crate::error::Error;

/// The number format of a weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Float {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits.
    F16,
}

/// Named tensors of a directory, read when asked for.
#[derive(Debug)]
pub struct Weights {
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Which file holds a name.
    places: BTreeMap<String, usize>,
    /// The names that were read.
    read: RefCell<BTreeSet<String>>,
}

/// One file for all weights.
const SINGLE: &str = "model.safetensors";

/// Which of several files holds a tensor.
const INDEX: &str = "model.safetensors.index.json";

/// The weight files of a directory: `model.safetensors` if it is there, as transformers has it, else the
/// shards that the index
/// names.
///
/// # Errors
/// There is neither, or the index is damaged.
pub fn weight_paths(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    if single.try_exists().unwrap_or(false) {
        return Ok(vec![single]);
    }
    if !index.try_exists().unwrap_or(false) {
        let has = |name: &str| directory.join(name).exists();
        let pickled =
            ["pytorch_model.bin", "pytorch_model.bin.index.json"].into_iter().find(|name| has(name));
        let message = match pickled {
            _ if has("adapter_model.safetensors") => "this is an adapter: it needs its base model".to_owned(),
            Some(name) => format!(
                "no {SINGLE}: {name} is a pickle, which is not read; convert it with `save_pretrained` of transformers, \
                 which writes safetensors"
            ),
            None => format!("no {SINGLE}: weights in another format have to be converted first"),
        };
        return Err(Error::Missing { path: directory.into(), message });
    }
    let mut names: Vec<String> = shard_names(&read_json(&index)?)
        .ok_or_else(|| Error::Weights { path: index.clone(), message: "no weight_map".into() })?;
    names.sort();
    names.dedup();
    if let Some(name) = names.iter().find(|name| !is_file_name(name)) {
        return Err(Error::Weights { path: index, message: format!("{name} is not a file name") });
    }
    let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
    match paths.iter().find(|path| !path.try_exists().unwrap_or(false)) {
        Some(path) => {
            let message =
                format!("{INDEX} names it, and it is not there: the model was copied or downloaded in part");
            Err(Error::Missing { path: path.clone(), message })
        }
        None => Ok(paths),
    }
}

/// The files that an index names, one for each tensor.
pub(crate) fn shard_names(index: &serde_json::Map<String, Value>) -> Option<Vec<String>> {
    let map = index.get("weight_map")?.as_object()?;
    map.values().map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Whether a name is that of a file and leads nowhere else.
pub(crate) fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// Buffers of other programs, which are computed and not read.
fn is_buffer(name: &str) -> bool {
    let ends = ["rotary_emb.inv_freq", ".attn.bias", ".attention.bias", ".masked_bias"];
    ends.iter().any(|end| name.ends_with(end))
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Self::of_files(&weight_paths(directory)?)
    }

    /// Opens given files.
    pub fn of_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for (index, path) in paths.iter().enumerate() {
            regular(path)?;
            let bytes = fs_err::read(path)?;
            let damaged =
                |source| Error::Weights { path: path.clone(), message: format!("damaged: {source}") };
            for name in SafeTensors::deserialize(&bytes).map_err(damaged)?.names() {
                places.insert(name.to_owned(), index);
            }
            files.push((path.clone(), bytes));
        }
        Ok(Self { files, places, read: RefCell::default() })
    }

    /// Names that nobody read, without buffers of other programs.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.places.keys().filter(|name| !read.contains(*name) && !is_buffer(name)).cloned().collect()
    }

    /// The rows of a matrix.
    pub(crate) fn rows(&self, name: &str) -> Option<usize> {
        let (_, file) = self.files.get(*self.places.get(name)?)?;
        SafeTensors::deserialize(file).ok()?.tensor(name).ok()?.shape().first().copied()
    }

    /// Whether two tensors hold the same bytes in the same format. Both count as read.
    pub(crate) fn equal(&self, a: &str, b: &str) -> bool {
        self.read.borrow_mut().extend([a.to_owned(), b.to_owned()]);
        let parsed = |name: &str| {
            let (_, file) = self.files.get(*self.places.get(name)?)?;
            SafeTensors::deserialize(file).ok()
        };
        let (Some(left), Some(right)) = (parsed(a), parsed(b)) else { return false };
        let (Ok(left), Ok(right)) = (left.tensor(a), right.tensor(b)) else { return false };
        (left.dtype(), left.shape(), left.data()) == (right.dtype(), right.shape(), right.data())
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The values of a vector of any length.
    pub fn read_vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let place = self.places.get(name).copied().unwrap_or_default();
        let found = self.files.get(place).and_then(|(_, file)| {
            let tensors = SafeTensors::deserialize(file).ok()?;
            Some(tensors.tensor(name).ok()?.shape().to_vec())
        });
        self.read(name, &found.unwrap_or_default())
    }

    /// The values of a tensor, whose shape must be `shape`.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let Some(place) = self.places.get(name) else {
            let path = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
            let message = match self.quantized(name) {
                Some(part) => {
                    format!("{name} is stored quantized ({part}): take the model that it was quantized from")
                }
                None => format!("no tensor {name}: does config.json belong to these weights?"),
            };
            return Err(Error::Weights { path, message });
        };
        self.read.borrow_mut().insert(name.to_owned());
        let (path, file) = &self.files[*place];
        let fail = |message: String| Error::Weights { path: path.clone(), message };
        let tensors = SafeTensors::deserialize(file).map_err(|source| fail(source.to_string()))?;
        let view = tensors.tensor(name).map_err(|source| fail(format!("{name}: {source}")))?;
        let (dtype, found, bytes) = (view.dtype(), view.shape(), view.data());
        if found != shape {
            if let Some(part) = self.quantized(name) {
                let hint = "take the model that it was quantized from";
                return Err(fail(format!("{name} is stored quantized ({part} is beside it): {hint}")));
            }
            return Err(fail(format!("{name} has shape {found:?}, config.json says {shape:?}")));
        }
        let values: Vec<f32> = match dtype {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::BF16 => {
                bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            other => {
                let hint =
                    "F32, BF16 and F16 are read: where it is quantized, take the model that it was made from";
                return Err(fail(format!("{name} is stored as {other:?}; {hint}")));
            }
        };
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            return Err(fail(format!("{name} holds {} at place {bad}", values[bad])));
        }
        Ok(values)
    }
}

impl Weights {
    /// A tensor beside that of `name` which only quantized weights have.
    fn quantized(&self, name: &str) -> Option<String> {
        let stem = name.strip_suffix("weight")?;
        let whole = [
            "qweight",
            "weight_packed",
            "weight_blocks",
            "weight.absmax",
            "SCB",
            "weight_scale",
            "weight_scale_inv",
            "scales",
        ];
        whole.iter().map(|end| format!("{stem}{end}")).find(|part| self.has(part))
    }
}

/// A tensor to be written.
#[derive(Debug)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// The bytes of a safetensors file, tensors in the order of their names.
pub fn serialize(tensors: &[Named], float: Float) -> Result<Vec<u8>, Error> {
    let dtype = match float {
        Float::F32 => Dtype::F32,
        Float::Bf16 => Dtype::BF16,
        Float::F16 => Dtype::F16,
    };
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|tensor| encode(&tensor.values, float)).collect();
    let mut views = Vec::new();
    let fail = |message: String| Error::Weights { path: PathBuf::new(), message };
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view =
            TensorView::new(dtype, tensor.shape.clone(), bytes).map_err(|source| fail(source.to_string()))?;
        views.push((tensor.name.as_str(), view));
    }
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|source| fail(source.to_string()))
}

fn encode(values: &[f32], float: Float) -> Vec<u8> {
    match float {
        Float::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Float::Bf16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
        Float::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
    }
}
