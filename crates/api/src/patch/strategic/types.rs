//! What a strategic merge patch asks of a schema.

pub use crate::schema::PatchStrategy;
use crate::schema::SchemaRef;

/// A type, as far as patches care. Built-in kinds have a [`SchemaRef`]; reference cases bring a small schema of their own.
pub trait PatchSchema: Copy {
    /// The type of a struct's field or of a map's values.
    fn child(self, key: &str) -> Option<Self>;
    /// The type of a list's items.
    fn items(self) -> Option<Self>;
    /// How the field is patched.
    fn strategy(&self) -> PatchStrategy;
    /// The key that tells a list's items apart; `""` for none.
    fn merge_key(&self) -> &str;
    /// Go's name of the type, for messages.
    fn name(&self) -> &str;
}

impl PatchSchema for SchemaRef<'_> {
    fn child(self, key: &str) -> Option<Self> {
        SchemaRef::child(self, key)
    }

    fn items(self) -> Option<Self> {
        SchemaRef::items(self)
    }

    fn strategy(&self) -> PatchStrategy {
        self.patch_strategy()
    }

    fn merge_key(&self) -> &str {
        SchemaRef::merge_key(*self).unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.message().rsplit('.').next().unwrap_or_default()
    }
}
