Feature: What really happened, whenever it becomes known
  Settlement Operations acts on predicted fails. Confirmations come late, are corrected and taken back, and some never
  come. Months later the desk must still be able to say what it knew on which day, and must not call a fail that it
  prevented a prediction that was wrong.

  Background:
    Given a desk whose contract asks whether a trade failed, how many days late it was and what it cost
    And the morning's 4 trades are scored

  Scenario: The confirmation comes days after it was due
    When the CSD says on the 4th that trade 1 failed
    Then on the 3rd the desk was waiting for trade 1
    And on the 5th the desk knew that trade 1 failed
    And on the 5th the maturity of the day was 1 of 4

  Scenario: A correction that arrives before what it corrects is not undone by it
    When the correction of the 5th arrives, that trade 1 settled
    And then the message of the 4th, that trade 1 failed
    Then trade 1 settled
    And on the 4th, by the sources, trade 1 had failed

  Scenario: The CSD takes back what it said
    When the CSD says on the 4th that trade 1 failed
    And the CSD takes back on the 6th what it said of trade 1
    Then nobody knows what happened to trade 1
    And on the 5th the desk knew that trade 1 failed

  Scenario: A cancelled trade is no trade that settled
    When trade 2 is cancelled on the 4th
    Then trade 2 is counted as censored
    And on the 5th the maturity of the day was 0 of 3

  Scenario: What does not come within its time is given up
    When the CSD says on the 4th that trade 1 failed
    Then on the 5th the maturity of the day was 1 of 4
    And today trades 2, 3 and 4 are counted as never known
    And the maturity of the day is 1 of 1

  Scenario: The penalty is known a month after the fail
    When the CSD says on the 4th that trade 1 failed
    And the penalty of trade 1 is 250.0
    Then the truth of trade 1 is failed, with a penalty of 250.0 and unknown days late

  Scenario: A prevented fail is not a wrong prediction
    When ann borrows the securities for trade 1 because it is first on her list
    And the CSD says on the 4th that trade 1 settled
    And the CSD says on the 4th that trade 2 settled
    Then performance counts trade 1 as treated and trade 2 as left alone
    And the ledger says what ann did to trade 1, when and why

  Scenario: A slice is left alone, so that it stays visible what happens when nothing is done
    Given half of the trades are left alone at random
    When 200 more trades are scored
    Then about half of them are decided "untreated", the same ones when they are scored again under another name
    And anyone who knows the salt finds the same ones
