// The entry: starts what every page has, and what some have.
import { startActions } from "./actions.js";
import { startFrame } from "./frame.js";
import { startLive } from "./live.js";
import { startNew } from "./new.js";
import { startRerun } from "./rerun.js";
import { startSelect } from "./select.js";
import { keepTime } from "./times.js";

keepTime();
startFrame();
startActions();
startRerun();
startNew();
startSelect();
startLive();
