//! From the tree to the recipe's type. An error knows the path of the value it is about, which serde's own do not.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use crate::path::{KeyPath, Segment};
use crate::tree::{Entry, Node, Value};

/// Why a value cannot be deserialised.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// A required key is absent, as opposed to a value being wrong.
    pub(crate) missing: bool,
    /// From the failing value outwards.
    inside_out: Vec<Segment>,
}

impl Failure {
    fn within(mut self, segment: Segment) -> Self {
        self.inside_out.push(segment);
        self
    }

    pub(crate) fn path(&self) -> KeyPath {
        KeyPath(self.inside_out.iter().rev().cloned().collect())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), missing: false, inside_out: Vec::new() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: true, ..Self::custom(format_args!("missing key `{field}`")) }
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.value {
            Value::String(text) | Value::Datetime(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => visitor.visit_i128(*number),
            },
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Array(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Table(table) => visitor.visit_map(Entries { entries: table.0.iter(), current: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Table(table) if table.0.len() == 1 => visitor.visit_enum(Variant { entry: &table.0[0] }),
            _ => Err(de::Error::custom(format_args!(
                "expected a name or a table that names the variant, found {}",
                self.found()
            ))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|failure| failure.within(Segment::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        seed.deserialize(BorrowedStrDeserializer::new(&entry.key))
            .map(Some)
            .map_err(|failure: Failure| failure.within(Segment::Key(entry.key.clone())))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        let entry = self.current.ok_or_else(|| <Failure as de::Error>::custom("a value without its key"))?;
        seed.deserialize(&entry.node).map_err(|failure| failure.within(Segment::Key(entry.key.clone())))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Variant<'de> {
    entry: &'de Entry,
}

impl Variant<'_> {
    fn inside(&self, failure: Failure) -> Failure {
        failure.within(Segment::Key(self.entry.key.clone()))
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = Failure;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Failure> {
        let name = seed
            .deserialize(BorrowedStrDeserializer::new(&self.entry.key))
            .map_err(|failure| self.inside(failure))?;
        Ok((name, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = Failure;

    /// A variant without settings may be written as a name or as an empty table.
    fn unit_variant(self) -> Result<(), Failure> {
        match &self.entry.node.value {
            Value::Table(table) if table.0.is_empty() => Ok(()),
            _ => Err(self.inside(de::Error::custom("this variant takes no settings"))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        seed.deserialize(&self.entry.node).map_err(|failure| self.inside(failure))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Failure> {
        self.entry.node.deserialize_any(visitor).map_err(|failure| self.inside(failure))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.entry.node.deserialize_any(visitor).map_err(|failure| self.inside(failure))
    }
}
