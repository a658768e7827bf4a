"""Files that others leave in any folder: operating systems, NAS boxes, synchronisers, editors."""

_NAMES = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin"),
    *("system volume information", "__macosx", "lost+found"),
    *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot"),
}
_PARTS = (".sync-conflict-", "conflicted copy", "(case conflict")


def is_foreign(name: str) -> bool:
    """Whether a relative path, with `/` between its parts, is one that others leave."""
    return any(_is_foreign_part(part.lower()) for part in name.split("/"))


def _is_foreign_part(part: str) -> bool:
    # A Zarr array, as Orbax may write it, describes itself in .zarray.
    hidden = part.startswith(".") and not part.startswith(".z")
    backup = part.endswith("~") or (part.startswith("#") and part.endswith("#"))
    return hidden or backup or part in _NAMES or any(each in part for each in _PARTS)
