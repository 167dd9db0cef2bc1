"""Packaging: everything that differs between projects is read from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# of data/: what the commands read; measured results stay in the clone
SHIPPED = ("README.md", "words", "texts", "small")

parser = ConfigParser(delimiters=["="])
parser.read("settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


class BuildWithData(build_py):
    """A wheel carries word lists and weights as talker_t2av/data; the clone keeps its only copy
    in data/ (`media.data_dir` knows both places).
    """

    def data_copies(self) -> dict[str, str]:
        """Source -> destination of every shipped data file."""
        top = Path("data")
        files = [
            file
            for name in SHIPPED
            for file in (
                [top / name] if (top / name).is_file() else sorted((top / name).rglob("*"))
            )
            if file.is_file()
        ]
        return {str(file): str(Path(self.build_lib, cfg["lib_path"], file)) for file in files}

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, destination in self.data_copies().items():
                self.mkpath(str(Path(destination).parent))
                self.copy_file(source, destination)

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + (
            [] if self.editable_mode else list(self.data_copies().values())
        )


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    url=cfg["git_url"],
    packages=find_packages(include=["talker_t2av", "talker_t2av.*"]),
    cmdclass={"build_py": BuildWithData},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        "dev": cfg["dev_requirements"].split()
        + cfg["neural_requirements"].split()
        + cfg["faces_requirements"].split(),
        "neural": cfg["neural_requirements"].split(),
        "faces": cfg["faces_requirements"].split(),
        "judges": cfg["judges_requirements"].split(),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
)
