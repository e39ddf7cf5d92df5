"""Teach and predict in ROS 2 callbacks: python docs/examples/ros_callbacks.py mqtt://HOST:PORT"""

import sys

import numpy as np
import rclpy
from sensor_msgs.msg import Image
from std_msgs.msg import String

import robot_edge as edge

with edge.Robot("ros", image_size=16, broker=sys.argv[1]) as robot:

    def see(message: Image) -> None:  # of encoding rgb8; no call here waits for the network
        robot.observe(np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3))
        seen.publish(String(data=robot.seen.name if robot.seen else ""))

    rclpy.init()
    node = rclpy.create_node("reflexarc_example")
    seen = node.create_publisher(String, "/seen", 10)
    node.create_subscription(Image, "/camera/image_raw", see, 10)
    # ros2 topic pub --once /teach std_msgs/String "data: mug"
    node.create_subscription(String, "/teach", lambda name: robot.teach(name.data, seconds=2), 10)
    rclpy.spin(node)
