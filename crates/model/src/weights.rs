//! Safetensors files: one or sharded, in f32, bf16 or f16.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::config::read_json;
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
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let index = directory.join("model.safetensors.index.json");
        if !index.exists() {
            let path = directory.join("model.safetensors");
            if !path.exists() {
                let message = if directory.join("adapter_model.safetensors").exists() {
                    "this is an adapter: it needs its base model"
                } else {
                    "no model.safetensors: weights in another format have to be converted first"
                };
                return Err(Error::Missing { path: directory.into(), message: message.into() });
            }
            return Self::of_files(&[path]);
        }
        let map = read_json(&index)?;
        let Some(Value::Object(map)) = map.get("weight_map") else {
            return Err(Error::Weights { path: index, message: "no weight_map".into() });
        };
        let mut names: Vec<String> =
            map.values().filter_map(|name| name.as_str().map(str::to_owned)).collect();
        names.sort();
        names.dedup();
        if let Some(name) = names.iter().find(|name| name.contains(['/', '\\'])) {
            return Err(Error::Weights { path: index, message: format!("{name} is not a file name") });
        }
        let paths: Vec<PathBuf> = names.iter().map(|name| directory.join(name)).collect();
        Self::of_files(&paths)
    }

    /// Opens given files.
    pub fn of_files(paths: &[PathBuf]) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for (index, path) in paths.iter().enumerate() {
            let bytes = fs_err::read(path)?;
            let damaged =
                |source| Error::Weights { path: path.clone(), message: format!("damaged: {source}") };
            for name in SafeTensors::deserialize(&bytes).map_err(damaged)?.names() {
                places.insert(name.to_owned(), index);
            }
            files.push((path.clone(), bytes));
        }
        Ok(Self { files, places })
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
            let message = format!("no tensor {name}: does config.json belong to these weights?");
            return Err(Error::Weights { path, message });
        };
        let (path, file) = &self.files[*place];
        let fail = |message: String| Error::Weights { path: path.clone(), message };
        let tensors = SafeTensors::deserialize(file).map_err(|source| fail(source.to_string()))?;
        let view = tensors.tensor(name).map_err(|source| fail(format!("{name}: {source}")))?;
        let (dtype, found, bytes) = (view.dtype(), view.shape(), view.data());
        if found != shape {
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
            other => return Err(fail(format!("{name} is stored as {other:?}; F32, BF16 and F16 are read"))),
        };
        if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
            return Err(fail(format!("{name} holds {} at place {bad}", values[bad])));
        }
        Ok(values)
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
