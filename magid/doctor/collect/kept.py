"""What magid keeps on disk: registry, profiles and tokens, read as magid reads them."""

from contextlib import suppress

from magid.auth import tokenfile
from magid.catalog import registry
from magid.catalog.profile import ProfileDir
from magid.config.settings import Config
from magid.doctor.facts import Kept, Tokens
from magid.errors import MagidError, TokensUnusable
from magid.files import document


def kept(settings: Config) -> Kept:
    """Changes nothing. Raises OSError where a folder may not be looked into."""
    path = settings.registry_path
    path.parent.stat()
    profiles = ProfileDir(settings.profiles_dir, settings.shipped_profiles_dir)
    names = profiles.list()
    return Kept(
        registry=str(path),
        problem=document.why_unusable(path, registry.parse),
        aside=tuple(map(str, sorted(path.parent.glob(f"{path.name}.corrupt-*")))),
        profiles={name: why for name in names if (why := _why_broken(profiles, name))},
        all_profiles=frozenset(names),
    )


def _why_broken(profiles: ProfileDir, name: str) -> str:
    try:
        profiles.get(name)
    except MagidError as error:
        return error.message
    return ""


def tokens(settings: Config) -> Tokens:
    """Raises PermissionError for whom the file is closed."""
    path = settings.state_dir / tokenfile.NAME
    with suppress(FileNotFoundError):
        path.open("rb").close()
    try:
        found = tokenfile.read(path)
    except TokensUnusable as error:
        return Tokens(problem=error.message)
    return Tokens(None if found is None else len(found))
