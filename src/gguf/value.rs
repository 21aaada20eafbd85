//! Metadata values as borrowed views.

use std::fmt;

use super::{Type, cursor::Cursor, shown};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Any non-negative whole number.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i128().and_then(|v| u64::try_from(v).ok())
    }

    /// Any whole number that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_i128().and_then(|v| i64::try_from(v).ok())
    }

    fn as_i128(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// A float of either width, rounded to an f32.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// A flag.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(v) => Some(v),
            _ => None,
        }
    }

    /// An array.
    pub fn as_array(&self) -> Option<&Array<'a>> {
        match self {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }

    /// The value's type.
    pub fn value_type(&self) -> Type {
        match self {
            Value::U8(_) => Type::U8,
            Value::I8(_) => Type::I8,
            Value::U16(_) => Type::U16,
            Value::I16(_) => Type::I16,
            Value::U32(_) => Type::U32,
            Value::I32(_) => Type::I32,
            Value::F32(_) => Type::F32,
            Value::Bool(_) => Type::Bool,
            Value::String(_) => Type::String,
            Value::Array(_) => Type::Array,
            Value::U64(_) => Type::U64,
            Value::I64(_) => Type::I64,
            Value::F64(_) => Type::F64,
        }
    }

    /// The value as an error shows it: never long.
    pub(crate) fn brief(&self) -> String {
        match self {
            Value::String(text) => format!("the string \"{}\"", shown(text)),
            Value::Array(array) => {
                format!("an array of {} {:?}", array.len(), array.element_type())
            }
            value => format!("{value:?}"),
        }
    }
}

/// An array of values: a view of bytes that were checked when the file was parsed.
#[derive(Clone, PartialEq)]
pub struct Array<'a> {
    pub(super) element: Type,
    pub(super) len: usize,
    /// The elements as they lie in the file.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of the elements.
    pub fn element_type(&self) -> Type {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (element, mut cursor) = (self.element, Cursor::new(self.bytes));
        // Parsing has checked every element: none fails here.
        (0..self.len).map_while(move |_| cursor.value(element, 0).ok())
    }

    /// The elements, if they are strings.
    pub fn strings(&self) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
        Some(self.string_bytes()?.filter_map(|bytes| std::str::from_utf8(bytes).ok()))
    }

    /// The elements' bytes, if they are strings: UTF-8, as parsing has checked, so that a
    /// vocabulary need not be looked through once more.
    pub fn string_bytes(&self) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let (len, mut cursor) = (self.len, Cursor::new(self.bytes));
        let strings = (0..len).map_while(move |_| cursor.string_bytes());
        (self.element == Type::String).then_some(strings)
    }

    /// The elements, if they are floats.
    pub fn f32s(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        let float: fn(&[u8]) -> f32 = match self.element {
            Type::F32 => |b| f32::from_le_bytes(number(b)),
            Type::F64 => |b| f64::from_le_bytes(number(b)) as f32,
            _ => return None,
        };
        Some(self.numbers().map(float))
    }

    /// The elements, if they are floats.
    pub fn f64s(&self) -> Option<impl Iterator<Item = f64> + use<'a>> {
        let float: fn(&[u8]) -> f64 = match self.element {
            Type::F32 => |b| f32::from_le_bytes(number(b)).into(),
            Type::F64 => |b| f64::from_le_bytes(number(b)),
            _ => return None,
        };
        Some(self.numbers().map(float))
    }

    /// The elements, if they are whole numbers of any width, and all fit.
    pub fn i64s(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        let integer: fn(&[u8]) -> i64 = match self.element {
            Type::U8 => |b| u8::from_le_bytes(number(b)).into(),
            Type::I8 => |b| i8::from_le_bytes(number(b)).into(),
            Type::U16 => |b| u16::from_le_bytes(number(b)).into(),
            Type::I16 => |b| i16::from_le_bytes(number(b)).into(),
            Type::U32 => |b| u32::from_le_bytes(number(b)).into(),
            Type::I32 => |b| i32::from_le_bytes(number(b)).into(),
            Type::I64 | Type::U64 => |b| i64::from_le_bytes(number(b)),
            _ => return None,
        };
        // Only a u64 may not fit: as an i64 it is then negative.
        let fit = self.element != Type::U64 || self.numbers().map(integer).all(|v| v >= 0);
        fit.then(|| self.numbers().map(integer))
    }

    /// The elements, if they are whole numbers of any width, and none is negative.
    pub fn u64s(&self) -> Option<impl Iterator<Item = u64> + use<'a>> {
        let integers = || self.values().map_while(|v| v.as_u64());
        let fit = self.element.is_integer() && integers().count() == self.len;
        fit.then(integers)
    }

    /// The bytes of each element of a type that has one width.
    fn numbers(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks_exact(self.element.min_bytes())
    }

    /// The elements, if they are flags.
    pub fn bools(&self) -> Option<impl Iterator<Item = bool> + use<'a>> {
        let flags = self.values().filter_map(|v| v.as_bool());
        (self.element == Type::Bool).then_some(flags)
    }
}

/// The bytes of one number, as [`Array::numbers`] gives them: `N` is the width of its type.
fn number<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut number = [0; N];
    number.copy_from_slice(bytes);
    number
}

// Long arrays are cut short.
impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        list.entries(self.values().take(8));
        if self.len > 8 {
            list.entry(&format_args!("... {} in all", self.len));
        }
        list.finish()
    }
}
