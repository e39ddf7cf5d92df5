"""Live topics of ROS 2: through rclpy where a ROS 2 is sourced, and straight over DDS elsewhere."""
