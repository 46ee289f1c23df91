"""What is installed: the package with its types, styles and configurations, built with what the tests' own
environment has, without a network."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("imgcls_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def build(kind, source):
    """Builds what pip would; returns the file."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return source / "dist" / done.stdout.split("\n")[-2]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout, so that nothing is left in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def wheel(tree):
    return build("wheel", tree)


def names_in(wheel):
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def test_a_wheel_holds_the_package_and_the_configurations(wheel):
    names = names_in(wheel)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "imgcls_jax").rglob("*.py")}
    configurations = {f"imgcls_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    others = {"imgcls_jax/py.typed", "imgcls_jax/figures/page.css", "imgcls_jax/figures/page.js"}
    others |= {"imgcls_jax/data/imagenet_synsets.txt"}
    found = {name for name in names if ".dist-info/" not in name}
    assert found == modules | configurations | others and len(configurations) > 30


def test_a_wheel_of_the_source_distribution_is_the_same(wheel, tree, tmp_path):
    with tarfile.open(build("sdist", tree)) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert names_in(build("wheel", source)) == names_in(wheel)


def test_an_installed_package_finds_its_configurations_from_any_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "installed")
        (entry,) = (name for name in file.namelist() if name.endswith("entry_points.txt"))
        assert "imgcls = imgcls_jax.main:command" in file.read(entry).decode().splitlines()
    (tmp_path / "elsewhere").mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r})\n"
        "from imgcls_jax.config import files\n"
        "print(files.find('cub_bcnn', {}).path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(tmp_path / "installed/imgcls_jax/configs/cub_bcnn.py"), done.stderr


@pytest.mark.parametrize("words", [["-m", "imgcls_jax"], ["-m", "imgcls_jax.main"], ["imgcls_jax/main.py"]])
def test_every_way_to_start_it(words):
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
