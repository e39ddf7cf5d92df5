"""A robot in a loop of your own: python docs/examples/robot_in_a_loop.py mqtt://HOST:PORT"""

import sys

import robot_edge as edge

with edge.Robot("loop", backbone="shufflenet_v2_x0_5", cut="stage2", image_size=16, broker=sys.argv[1]) as robot:
    for step in robot.train(edge.open_source("sim:", images=160)):
        print(f"{step.images} frames, loss {step.loss:.3f}, {robot.cloud.images} of them in the cloud")
    camera = edge.open_source("sim:", images=1, seed=1)
    while frame := camera.next():
        seen = robot.predict(frame.image)
        print(f"{frame.label} is taken for {seen.name or 'unknown'}: {seen.confidence:.0%}, by the {seen.answered_by}")
    robot.save("runs/loop")
