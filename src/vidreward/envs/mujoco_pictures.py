"""Pictures of MuJoCo scenes, fast: what costs much time and shows little at the size of the picture is left out.

MuJoCo's default draws a shadow map of 4096 x 4096, mirrors the scene in every shiny surface, takes four samples a
pixel, and sends each triangle of meshes scanned for close-ups to the renderer. Reward models look at 48 to 224 pixels.
"fast" draws no shadows and reflections, takes one sample a pixel and merges mesh vertices that lie within about a pixel
of each other; "full" is MuJoCo's default.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib.util
import os
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray

from vidreward.envs.names import check_names

if TYPE_CHECKING:
    import mujoco

Quality = Literal["fast", "full"]
QUALITIES: tuple[Quality, ...] = ("fast", "full")
VIEW_WIDTH = 0.5
"""Metres that a picture is taken to show side to side when vertices are merged; less than any of our cameras shows."""


@dataclass(frozen=True)
class FreeCamera:
    """A camera by what it looks at; angles in degrees."""

    distance: float
    lookat: tuple[float, float, float]
    elevation: float
    azimuth: float


class Pictures:
    """Draw the scenes of one MuJoCo model.

    The OpenGL context is made at the first picture and freed by `close`, or with the object.

    Args:
        model: The scene; its places, sizes and colours may change later, its meshes may not.
        height: Of the pictures.
        width: Of the pictures.
        render: "fast" or "full".

    Raises:
        ValueError: There is no such quality.
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int, render: Quality) -> None:
        check_names("render quality", [render], QUALITIES)
        self._model, self._height, self._width, self._fast = model, height, width, render == "fast"
        self._renderer: Any = None

    def draw(self, data: mujoco.MjData, camera: str | int | FreeCamera) -> UInt8[ndarray, "H W 3"]:
        """Draw a state as a camera of the model, or a free one, sees it."""
        import mujoco

        if self._renderer is None:
            self._renderer = self._open()
        view, scene, everything = _camera(self._model, camera), self._renderer.scene, mujoco.mjtCatBit.mjCAT_ALL
        # not Renderer.update_scene: it knows the model as it was, or its copy, and the world may have changed colours
        mujoco.mjv_updateScene(self._model, data, self._visible, None, view, everything, scene)
        if self._fast:
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                scene.flags[flag] = False
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context; the next picture makes another."""
        if self._renderer is not None:
            self._finalizer()
            self._renderer = None

    def _open(self) -> Any:
        import mujoco

        _check_display()
        _load_triton()
        model = self._model
        if self._fast:
            model = copy.copy(model)
            merge_vertices(model, VIEW_WIDTH / max(self._height, self._width))
            model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self._width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self._height)
        self._visible = mujoco.MjvOption()
        renderer = mujoco.Renderer(model, self._height, self._width)
        self._finalizer = weakref.finalize(self, renderer.close)
        self._finalizer.atexit = False
        atexit.register(self._finalizer)  # runs before MuJoCo's own, which takes the display away
        return renderer


def _camera(model: mujoco.MjModel, camera: str | int | FreeCamera) -> mujoco.MjvCamera:
    import mujoco

    view = mujoco.MjvCamera()
    if isinstance(camera, FreeCamera):
        view.distance, view.elevation, view.azimuth = camera.distance, camera.elevation, camera.azimuth
        view.lookat[:] = camera.lookat
    else:
        view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        view.fixedcamid = model.camera(camera).id
    return view


def use_egl() -> None:
    """Choose OpenGL without a display, unless the user chose something; must come before the first import of MuJoCo."""
    os.environ.setdefault("MUJOCO_GL", "egl")


def _check_display() -> None:
    """Raise a clear error where MuJoCo was imported before `use_egl`, and chose windows that cannot be opened."""
    from mujoco import gl_context

    if "glfw" in gl_context.GLContext.__module__ and not os.environ.get("DISPLAY"):
        raise RuntimeError(
            "MuJoCo was imported before vidreward and chose to draw in windows, but there is no display; "
            "set the environment variable MUJOCO_GL=egl before Python starts"
        )


def _load_triton() -> None:
    """Load triton before OpenGL, where it is installed.

    OpenGL without a GPU brings an LLVM of its own, whose symbols become global; triton, which torch imports when an
    optimizer first steps, would bind to them and crash. The other way round both get their own.
    """
    if importlib.util.find_spec("triton") is not None:
        with contextlib.suppress(ImportError):  # broken, so torch will not load it either
            importlib.import_module("triton")


def merge_vertices(model: mujoco.MjModel, cell: float) -> None:
    """Merge the vertices of every mesh that share a cell of a grid, and drop the triangles that vanish.

    Physics does not use the model that is changed; triangles keep their normals, so shading hardly changes.

    Args:
        model: Changed in place.
        cell: Side of a cell, in metres.
    """
    for mesh in range(model.nmesh):
        first, num = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        vertices = model.mesh_vert[first : first + num]
        begin, num_faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        faces = slice(begin, begin + num_faces)
        keys = np.floor(vertices / cell).astype(np.int64)
        _, kept, cluster, size = np.unique(keys, axis=0, return_index=True, return_inverse=True, return_counts=True)
        cluster = cluster.ravel()
        sums = np.stack([np.bincount(cluster, vertices[:, axis]) for axis in range(3)], axis=1)
        vertices[kept] = sums / size[:, None]
        merged = kept[cluster][model.mesh_face[faces]]
        alive = _distinct(merged)
        left = slice(begin, begin + len(alive))
        model.mesh_face[left] = merged[alive]
        for name in ("mesh_facenormal", "mesh_facetexcoord"):
            rows = getattr(model, name)
            rows[left] = rows[faces][alive]
        model.mesh_facenum[mesh] = len(alive)


def _distinct(faces: Int[ndarray, "F 3"]) -> Int[ndarray, "K"]:
    """Return which triangles have three corners and are the first with these, seen from the same side."""
    a, b, c = faces.T
    turned = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    _, first = np.unique(np.take_along_axis(faces, turned, axis=1), axis=0, return_index=True)
    real = (a != b) & (b != c) & (a != c)
    return np.sort(first[real[first]])
