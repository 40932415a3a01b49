"""The scenes of HOLD's five tasks, put together from the models that Meta-World ships.

RLV's pushing has its own scene: a white table, a red mug on it, a dark square to push it to. RLV's drawer is
Meta-World's. The three tasks of DVD share one: a drawer, a coffee machine, a tap and a heavy mug in front of the arm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidreward.envs.metaworld import import_metaworld

if TYPE_CHECKING:
    import mujoco

PUSHING_TARGET = (0.0, 0.75)
"""Centre of the dark square, in metres."""

PUSHING = """
<body name="puck" pos="0 0.6 0">
  <joint name="puck" type="free" limited="false" damping="1"/>
  <inertial pos="0 0 0" mass="0.1" diaginertia="0.1 0.1 0.1"/>
  <geom class="cm_base" mesh="mug" pos="0 0 0.034" rgba="1 0.1 0.1 1"/>
  <geom class="cm_base" mesh="handle" pos="0.039 0 0.047" euler="1.571 0 0" rgba="1 0.1 0.1 1"/>
  <geom class="cm_col" type="cylinder" pos="0 0 0.033" size="0.03 0.033" friction="0.1 0.005 0.0001" priority="1"/>
</body>
<geom type="box" pos="{x} {y} 0.001" size="0.04 0.04 0.001" rgba="0.1 0.1 0.1 1" contype="0" conaffinity="0"/>
"""
DRAWER = '<body name="drawer" pos="0 0.9 0"><include file="{objects}/drawer.xml"/></body>'
DVD = """
<body name="mug_base" pos="0 0.6 0">
  <joint name="mug" type="free" limited="false"/>
  <body childclass="cm_base">
    <inertial pos="0 0 0" mass="1.5" diaginertia="0.01 0.01 0.01"/>
    <geom mesh="mug" pos="0 0 0.034" material="cmwhite"/>
    <geom mesh="handle" pos="0.039 0 0.047" euler="1.571 0 0" material="cmwhite"/>
    <geom class="cm_col" type="cylinder" pos="0 0 0.035" size="0.028 0.033"/>
    <geom class="cm_col" type="cylinder" pos="0.034 0 0.042" euler="1.57 0 0" size="0.02 0.005"/>
  </body>
</body>
<body name="drawer" pos="0.25 0.75 0"><include file="{objects}/drawer.xml"/></body>
<body name="coffee_machine" pos="-0.04 0.85 0">{coffee_machine}</body>
<body name="tap" pos="-0.25 0.7 0"><include file="{objects}/faucet.xml"/></body>
<camera name="original" pos="0.05 -0.05 0.6" quat="0.0218097 -0.0377755 0.4995241 -0.8652011"/>
"""
"""The mug weighs fifteen times what its walls would; without that the arm throws it off the table."""


def pushing() -> mujoco.MjModel:
    """Compile RLV's pushing scene; the mug's joint is `puck`: light, sliding easily, unable to tip over."""
    spec = _read(PUSHING.format(x=PUSHING_TARGET[0], y=PUSHING_TARGET[1]), ("coffeemachine",))
    _paint(spec.body("tablelink"), (0.6, 0.6, 0.6, 1.0))
    for claw in ("rightclaw", "rightpad", "leftclaw", "leftpad"):
        _paint(spec.body(claw), (0.1, 0.1, 0.1, 1.0))
    _remove_walls(spec)
    return _compile(spec)


def drawer() -> mujoco.MjModel:
    """Compile RLV's drawer scene; the drawer's joint is `goal_slidey`."""
    return _compile(_read(DRAWER.format(objects=_assets() / "objects" / "assets"), ("drawer",)))


def dvd() -> mujoco.MjModel:
    """Compile DVD's scene; the joints are `mug`, `goal_slidey` (the drawer), `button` and `knob_Joint_1` (the tap)."""
    objects = _assets() / "objects" / "assets"
    machine = (objects / "coffeemachine.xml").read_text()
    machine = machine.replace('name="goal_slidey"', 'name="button"')  # the drawer's joint has the same name
    machine = machine.partition("<mujocoinclude>")[2].partition("</mujocoinclude>")[0]
    spec = _read(DVD.format(objects=objects, coffee_machine=machine), ("coffeemachine", "drawer", "faucet"))
    # DVD's arm stands lower and further back, and its hand is nearer to the wrist: it reaches in under the camera
    spec.body("base").pos = (0.0, -0.2, -0.3)
    spec.body("hand").pos = (0.0, 0.0, 0.05)
    _remove_walls(spec)
    return _compile(spec)


def _assets() -> Path:
    return Path(import_metaworld().__file__).parent / "assets"


def _read(scene: str, objects: tuple[str, ...]) -> Any:
    """Read a table, the arm and what stands before it."""
    import mujoco

    assets = _assets()
    parts = [assets / "scene" / "basic_scene.xml"]
    parts += [assets / "objects" / "assets" / f"{name}_dependencies.xml" for name in (*objects, "xyz_base")]
    return mujoco.MjSpec.from_string(f"""
        <mujoco>
          <compiler meshdir="{assets / "sawyer_xyz"}" texturedir="{assets / "sawyer_xyz"}"/>
          {"".join(f'<include file="{part}"/>' for part in parts)}
          <worldbody><include file="{assets / "objects" / "assets" / "xyz_base.xml"}"/>{scene}</worldbody>
          <actuator>
            <position ctrllimited="true" ctrlrange="-1 1" joint="r_close" kp="400"/>
            <position ctrllimited="true" ctrlrange="-1 1" joint="l_close" kp="400"/>
          </actuator>
          <equality><weld body1="mocap" body2="hand" solref="0.02 1"/></equality>
        </mujoco>
    """)


def _compile(spec: Any) -> mujoco.MjModel:
    """Compile without the marks that Meta-World's models carry."""
    model = spec.compile()
    model.site_rgba[:] = 0
    # the hand goes where the mocap body is: anchor, relative position and orientation, torque scale, as in Meta-World
    model.eq_data[0] = (0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 5)
    return model


def _paint(body: Any, color: tuple[float, float, float, float]) -> None:
    for geom in body.geoms:
        geom.material, geom.rgba = "", color


def _remove_walls(spec: Any) -> None:
    _paint(spec.body("RetainingWall"), (0.0, 0.0, 0.0, 0.0))
    for geom in spec.body("RetainingWall").geoms:
        geom.conaffinity = 0
