//! What a key may be given as in the library.

/// A row of the input, as texts that the server casts to the columns' types.
///
/// ```
/// use headcount::Keys;
///
/// let composite = Keys::rows([("DE", 17), ("FR", 4)]);
/// ```
pub trait Row {
    /// One field per column; `None` is NULL.
    fn fields(self) -> Box<[Option<Box<str>>]>;
}

macro_rules! scalar {
    ($($name:ty)+) => {$(
        impl Row for $name {
            fn fields(self) -> Box<[Option<Box<str>>]> {
                [Some(self.to_string().into())].into()
            }
        }
    )+};
}
scalar!(&str String i16 i32 i64 u16 u32 u64);

impl Row for Vec<Option<String>> {
    fn fields(self) -> Box<[Option<Box<str>>]> {
        self.into_iter().map(|field| field.map(Into::into)).collect()
    }
}

macro_rules! tuple {
    ($($name:ident)+) => {
        impl<$($name: ToString),+> Row for ($($name,)+) {
            #[allow(non_snake_case, reason = "a value per type")]
            fn fields(self) -> Box<[Option<Box<str>>]> {
                let ($($name,)+) = self;
                [$(Some($name.to_string().into())),+].into()
            }
        }
    };
}
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
